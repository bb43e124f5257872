"""`setpoint batch-predict` and `setpoint batches`, against real services."""

import asyncio
import json
from pathlib import Path

import polars as pl
import pytest
from tests.support import parcels
from tests.support.house import House
from typer.testing import CliRunner, Result

from setpoint_cli import main, session

DATE = "2024-03-03"
KEYS = ("depot", "crew")


@pytest.fixture(autouse=True)
def _to_the_house(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_settings", lambda _: {**home.addresses, "caller": "test"})


async def command(*arguments: str) -> Result:
    """Run the command; the services go on meanwhile."""
    return await asyncio.to_thread(CliRunner().invoke, main.app, list(arguments))


async def test_predict_for_a_date(home: House, tmp_path: Path) -> None:
    """The job of a date runs once, says what came out, and is found again."""
    frame = home.questions().select(*KEYS, *parcels.REQUEST_FIELDS)
    frame.write_csv(tmp_path / f"in-{DATE}.csv")
    asked = [
        "batch-predict",
        str(tmp_path / "in-{date}.csv"),
        str(tmp_path / "out-{date}"),
        *("--model", parcels.MODEL, "--name", "nightly", "--date", DATE),
        *("--keep", "depot", "--format", "csv"),
    ]
    ran = await command(*asked)
    assert ran.exit_code == 0, ran.output
    assert "attempt 1" in ran.output
    assert f"nightly for {DATE} 00:00 by {parcels.MODEL}/{home.version} is succeeded" in ran.output
    assert "250 rows, 0 failed" in ran.output
    manifest = json.loads((tmp_path / f"out-{DATE}" / "manifest.json").read_text())
    assert manifest["batch_prediction"]["date"].startswith(DATE)
    found = pl.concat(
        pl.read_csv(tmp_path / f"out-{DATE}" / part["name"]) for part in manifest["parts"]
    )
    assert found["depot"].equals(frame["depot"])

    again = await command(*asked)
    assert again.exit_code == 0
    assert "is there already" in again.output
    listed = await command("batches", "--name", "nightly")
    assert "succeeded" in listed.output
    [job_id] = [manifest["batch_prediction"]["id"]]
    shown = await command("batches", job_id)
    assert "is succeeded" in shown.output
    refused = await command("batches", job_id, "--cancel")
    assert refused.exit_code == 1


async def test_exit_codes(home: House, tmp_path: Path) -> None:
    """A job that fails ends with 1 and says why; a model that is not there with 3."""
    (tmp_path / "in.csv").write_text("depot,crew,distance\na,b,1\n")
    common = [str(tmp_path / "in.csv"), str(tmp_path / "out"), "--name", "bad"]
    failed = await command("batch-predict", *common, "--model", parcels.MODEL)
    assert failed.exit_code == 1
    assert "INVALID_INPUT" in failed.output
    assert "column 'kind': is not in the file" in failed.output
    unknown = await command("batch-predict", *common, "--model", "nobody")
    assert unknown.exit_code == 3
