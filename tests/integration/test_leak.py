"""The leak of the demo's data is found: the delay of the departure, put beside the question."""

import asyncio
from pathlib import Path

import polars as pl
import pytest
from tests.support.departures import Past
from typer.testing import CliRunner

from setpoint.feature.v1 import feature_service_pb2
from setpoint_cli import main, session
from setpoint_client import DataType
from setpoint_columns import Columns, interop, proto
from setpoint_demo import definitions

pytestmark = pytest.mark.timeout(300)

SHARE = "carrier_late_share_24h"


async def _findings(past: Past, table: Columns) -> dict[str, feature_service_pb2.LeakageFinding]:
    request = feature_service_pb2.CheckLeakageRequest(
        columns=[
            feature_service_pb2.LeakageColumn(
                column="dep_delay", view="departed_flight", field="departure_delay"
            ),
            feature_service_pb2.LeakageColumn(
                column=SHARE, view="carrier_lateness", field="late_share_24h"
            ),
        ],
        table=proto.to_proto(table),
    )
    response = await past.client.stubs.feature.CheckLeakage(request, timeout=30)
    return {finding.column: finding for finding in response.findings}


async def test_careless_join_of_departure_delay_is_caught(
    past: Past, questions: pl.DataFrame
) -> None:
    """Proves that dep_delay in a training table is a leak, and that an honest column beside it is none."""
    keys = questions.select("flight_id", "carrier", "origin", "tailnum", "event_time")
    honest = await past.client.get_historical_features(definitions.FEATURE_SET, keys)
    # What a notebook does: join the flights' final figures by id alone.
    departed = past.frames["departed_flight"].select(
        "flight_id", departed="event_time", dep_delay="departure_delay"
    )
    careless = keys.join(departed, "flight_id", how="left", maintain_order="left")
    table = interop.from_polars(careless.select("flight_id", "carrier", "event_time", "dep_delay"))
    table = table.with_column(honest.columns[SHARE])
    assert table["dep_delay"].dtype is DataType.FLOAT64

    findings = await _findings(past, table)
    leaked = careless.with_row_index("row").filter(pl.col("departed") > pl.col("event_time"))
    assert findings["dep_delay"].values == careless["dep_delay"].count()
    assert findings["dep_delay"].leaked == leaked.height > questions.height / 2
    assert set(findings["dep_delay"].rows) <= set(leaked["row"])
    assert findings["dep_delay"].message
    assert findings[SHARE].values > questions.height / 2
    assert findings[SHARE].leaked == 0


async def test_table_of_what_was_known_has_no_leak(past: Past, questions: pl.DataFrame) -> None:
    """Proves that the service's own join of the same feature passes."""
    keys = questions.select("flight_id", "carrier", "origin", "tailnum", "event_time")
    joined = await past.client.get_historical_features(definitions.FEATURE_SET, keys)
    table = interop.from_polars(keys.select("flight_id", "carrier", "event_time"))
    table = table.with_column(joined.columns["departure_delay"].rename("dep_delay"))
    table = table.with_column(joined.columns[SHARE])
    findings = await _findings(past, table)
    assert {name: finding.leaked for name, finding in findings.items()} == {
        "dep_delay": 0,
        SHARE: 0,
    }


async def test_command_finds_the_leak_by_itself(
    past: Past, questions: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that the command finds dep_delay under a name that nobody told it, and says what let it in."""
    departed = past.frames["departed_flight"].select("flight_id", minutes="departure_delay")
    careless = questions.join(departed, "flight_id", how="left", maintain_order="left")
    path = tmp_path / "flights.parquet"
    careless.drop("created_time").write_parquet(path)
    address = {"feature_address": past.address, "caller": "test"}
    monkeypatch.setattr(session, "_settings", lambda _: address)
    monkeypatch.setattr(session.console, "width", 300)
    arguments = ["features", "leaks", str(path)]
    ran = await asyncio.to_thread(CliRunner().invoke, main.app, arguments)
    assert ran.exit_code == 1, ran.output
    [line] = [each for each in ran.output.splitlines() if "minutes" in each]
    assert "departed_flight.departure_delay" in line
    assert "became true later" in line
    assert "a join by key alone, newest row (100%)" in line
    assert "1 of" in ran.output
