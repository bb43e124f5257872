"""Batch predictions by real services: equal to online ones, whole or not there, never done twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.support import parcels
from tests.support.house import INPUTS, STATES, House

from setpoint.batch.v1 import batch_prediction_pb2 as messages
from setpoint.common.v1 import column_pb2
from setpoint_columns import interop
from setpoint_columns import proto as column_messages
from setpoint_runtime import ids

KEYS = ("depot", "crew")


def spec(house: House, source: Path | str, **changes: Any) -> messages.BatchPredictionSpec:
    """A job of its own for a file, with its output beside it."""
    name = f"job-{ids.uuid7()[-12:]}"
    made = messages.BatchPredictionSpec(
        name=name,
        model=parcels.MODEL,
        event_time=parcels.midnight(2),
        input=messages.BatchInput(url=str(source)),
        output=messages.BatchOutput(url=str(house.folder / "output" / name)),
    )
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def written(tmp_path: Path, frame: pl.DataFrame, ending: str = "parquet") -> Path:
    path = tmp_path / f"questions.{ending}"
    if ending == "parquet":
        frame.write_parquet(path, row_group_size=60)
    elif ending == "csv":
        frame.write_csv(path)
    else:
        frame.write_ipc(path)
    return path


def output(job: messages.BatchPrediction) -> pl.DataFrame:
    """Read the output of a job by its manifest."""
    assert job.state == STATES.BATCH_PREDICTION_STATE_SUCCEEDED, job
    manifest = json.loads(Path(job.manifest_url.removeprefix("file://")).read_text())
    folder = Path(job.spec.output.url.removeprefix("file://"))
    parts = [pl.read_parquet(folder / part["name"]) for part in manifest["parts"]]
    return pl.concat(parts)


async def asked_online(house: House, frame: pl.DataFrame) -> pl.DataFrame:
    """Ask the router about the same rows."""
    rows = frame.select(*KEYS, *parcels.REQUEST_FIELDS, "sent_time")
    answer = await house.client.predict_batch(
        parcels.ROUTE, rows, event_time_column="sent_time", timeout=20
    )
    return answer


async def test_equal_online(home: House, tmp_path: Path) -> None:
    """Features, predictions and degradations of the same rows and times are equal to the bit."""
    frame = home.questions()
    job = spec(home, written(tmp_path, frame))
    job.input.event_time_column = "sent_time"
    job.input.kept_columns.append("parcel_id")
    job.output.with_inputs = True
    found = output(await home.run(job))
    online = await asked_online(home, frame)
    print(found, online)
