"""Snapshots of the demo's history, made and read by the command."""

import asyncio
from pathlib import Path

import polars as pl
import pytest
from tests.support.departures import Past
from typer.testing import CliRunner, Result

from setpoint.feature.v1 import snapshot_service_pb2
from setpoint_cli import main, session
from setpoint_demo import definitions

pytestmark = pytest.mark.timeout(300)

KEYS = ("flight_id", "carrier", "origin", "tailnum")


async def test_command_keeps_and_reads_a_training_set(
    past: Past, questions: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that what is read back is the join with all columns of the spine, until it is removed."""
    settings = {"feature_address": past.address, "caller": "test"}
    monkeypatch.setattr(session, "_settings", lambda _: settings)
    monkeypatch.setattr(session.console, "width", 300)

    async def command(*arguments: str) -> Result:
        given = ["features", "snapshot", *arguments]
        return await asyncio.to_thread(CliRunner().invoke, main.app, given)

    spine = questions.select(*KEYS, "event_time", asked=pl.int_range(pl.len()))
    spine.write_parquet(tmp_path / "spine.parquet")
    options = ("--feature-set", definitions.FEATURE_SET, "--description", "first week")
    kept = ("--keep-days", "7")
    made = await command("create", str(tmp_path / "spine.parquet"), *options, *kept)
    assert made.exit_code == 0, made.output
    token = made.output.splitlines()[0].strip()

    listed = await command("list")
    assert token in listed.output
    assert "first week" in listed.output
    (stored,) = (
        await past.client.stubs.snapshots.ListSnapshots(
            snapshot_service_pb2.ListSnapshotsRequest(), timeout=60
        )
    ).snapshots
    assert stored.expire_time == stored.create_time + 7 * 86_400_000_000
    assert session.show_time(stored.expire_time) in listed.output
    out = tmp_path / "out.parquet"
    read = await command("read", token, str(out))
    assert read.exit_code == 0, read.output
    found = pl.read_parquet(out)
    assert found.select(spine.columns).equals(spine)
    joined = await past.client.get_historical_features(definitions.FEATURE_SET, spine)
    features = joined.to_polars().select(joined.columns.names)
    assert found.select(features.columns).equals(features)

    compared = await command("compare", token)
    assert compared.exit_code == 0, compared.output
    [again] = [line for line in compared.output.splitlines() if "same question again" in line]
    assert "0.00%" in again
    assert (await command("delete", token)).exit_code == 0
    assert (await command("read", token, str(out))).exit_code == session.EXIT_NOT_FOUND
