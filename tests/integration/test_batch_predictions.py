"""Batch predictions by real services: equal to online ones, whole or not there, never done twice."""

import json
from pathlib import Path
from typing import Any

import grpc.aio
import polars as pl
import pytest
from tests.support import parcels
from tests.support.house import INPUTS, SECONDS, STATES, House

from setpoint.batch.v1 import batch_prediction_pb2 as messages
from setpoint.batch.v1 import batch_service_pb2
from setpoint_columns import interop
from setpoint_columns import proto as column_messages
from setpoint_rpc import channel
from setpoint_runtime import errors, ids

KEYS = ("depot", "crew")
DERIVED = ("queue_each", "effort")


def spec(house: House, source: Path | None, **changes: Any) -> messages.BatchPredictionSpec:
    """A job of its own for a file, with its output in a folder of its own."""
    name = f"job-{ids.uuid7()[-12:]}"
    made = messages.BatchPredictionSpec(
        name=name,
        model=parcels.MODEL,
        event_time=parcels.midnight(2),
        input=messages.BatchInput(url=str(source or "")),
        output=messages.BatchOutput(url=str(house.folder / "output" / name)),
    )
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def written(tmp_path: Path, frame: pl.DataFrame) -> Path:
    path = tmp_path / "questions.parquet"
    frame.write_parquet(path, row_group_size=60)
    return path


def manifest_of(job: messages.BatchPrediction) -> dict[str, Any]:
    assert job.state == STATES.BATCH_PREDICTION_STATE_SUCCEEDED, job
    content = Path(job.manifest_url.removeprefix("file://")).read_text()
    manifest: dict[str, Any] = json.loads(content)
    return manifest


def output(job: messages.BatchPrediction) -> pl.DataFrame:
    """Read the output of a job by its manifest."""
    folder = Path(job.spec.output.url.removeprefix("file://"))
    return pl.concat([pl.read_parquet(folder / part["name"]) for part in manifest_of(job)["parts"]])


async def online(house: House, rows: pl.DataFrame) -> pl.DataFrame:
    """Ask the router about rows, each at its time."""
    answer = await house.client.predict_batch(
        parcels.ROUTE, rows, event_time_column="sent_time", timeout=SECONDS
    )
    return interop.to_polars(answer.columns)


def strange(frame: pl.DataFrame) -> pl.DataFrame:
    """The questions, with some that rules refuse or flag and entities that nobody knows."""
    at = pl.int_range(pl.len())
    return frame.with_columns(
        pl.when(at % 50 == 3).then(9_000.0).when(at % 50 == 4).then(3_000.0)
        .otherwise(pl.col("distance")).alias("distance"),
        pl.when(at % 50 == 5).then(pl.lit("balloon")).otherwise(pl.col("kind")).alias("kind"),
        pl.when(at % 50 == 6).then(pl.lit("nowhere")).otherwise(pl.col("depot")).alias("depot"),
        pl.when(at % 50 == 7).then(None).otherwise(pl.col("crew")).alias("crew"),
    )  # fmt: skip


async def test_equal_online(home: House, tmp_path: Path) -> None:
    """Online and batch give the same features, answers, refusals and degradations, bit for bit."""
    day = strange(home.questions())
    # Online knows the newest values alone, so the questions are asked after the last of them.
    frame = day.with_columns(sent_time=pl.lit(day["sent_time"].max()) + pl.duration(minutes=1))
    job = spec(home, written(tmp_path, frame))
    job.input.event_time_column = "sent_time"
    job.input.kept_columns.append("parcel_id")
    job.output.with_inputs = True
    ended = await home.run(job)
    found = output(ended)
    asked = await online(home, frame.select(*KEYS, *parcels.REQUEST_FIELDS, "sent_time"))
    same = ["version", "status", "degradations", "on_time", "late"]
    assert found.select(same).equals(asked.select(same))
    assert found["parcel_id"].equals(frame["parcel_id"])
    reasons = [frame["error"].str.split(":").list.first() for frame in (found, asked)]
    assert reasons[0].equals(reasons[1])

    answered = found.filter(pl.col("status") == 0)
    entities = frame.filter(found["status"] == 0)
    values = await home.client.get_online_features(
        parcels.FEATURE_SET,
        entities.select(*KEYS, "distance"),
        as_of=frame["sent_time"][0],
        timeout=SECONDS,
    )
    names = (*parcels.FEATURES, *DERIVED)
    seen = answered.select(f"input_{name}" for name in names)
    seen = seen.rename(lambda name: name.removeprefix("input_"))
    assert seen.equals(interop.to_polars(values.columns).select(names))
    effort = seen["queue"] / seen["staff"] + entities["distance"] / 100.0
    assert effort.is_null().equals(seen["effort"].is_null())
    # polars divides by multiplying.
    assert ((effort - seen["effort"]).abs() < 1e-9).all()
    assert 0 < seen["effort"].null_count() < len(seen)
    # All of what is compared did occur.
    assert {"RULE_VIOLATED", None} == set(reasons[0])
    told = set(",".join(found["degradations"].drop_nulls()).split(","))
    assert {each.split(":")[0] for each in told} == {
        "FEATURE_MISSING",
        "FEATURE_DEFAULT",
        "RULE_FLAGGED",
    }
    progress = ended.progress
    assert (progress.rows, progress.rows_done) == (len(frame), len(frame))
    assert progress.rows_failed == (found["status"] != 0).sum()


async def test_given_equal_online(home: House, tmp_path: Path) -> None:
    """With all inputs given, online and batch give the same answers, and no feature is fetched."""
    frame = home.questions().with_columns(
        queue=pl.col("distance") / 7,
        staff=pl.lit(3),
        sick_share=pl.lit(None, pl.Float64),
        effort=pl.col("distance") / 100,
    )
    rows = frame.select(*INPUTS)
    ended = await home.run(spec(home, written(tmp_path, rows)))
    found = output(ended)
    asked = await online(home, rows.with_columns(frame["sent_time"]))
    same = ["status", "degradations", "on_time", "late"]
    assert found.select(same).equals(asked.select(same))
    assert manifest_of(ended)["features"] == "given"


async def test_known_at_the_date(home: House, tmp_path: Path) -> None:
    """For a past date the features are those that were known then, not the newest."""
    frame = home.questions().select(*KEYS, *parcels.REQUEST_FIELDS)
    job = spec(home, written(tmp_path, frame), event_time=parcels.midnight(1))
    job.output.with_inputs = True
    found = output(await home.run(job))
    first = home.days[1].loads().filter(pl.col("event_time").dt.hour() == 0)
    queues = dict(first.select("depot", "queue").iter_rows())
    assert found["input_queue"].to_list() == [queues[depot] for depot in frame["depot"]]
    assert found["event_time"].unique().dt.timestamp("us").to_list() == [parcels.midnight(1)]


async def test_same_date_once(home: House, tmp_path: Path) -> None:
    """The job of a date is one resource: asked again it is returned, run again only when told to."""
    frame = home.questions().select(*KEYS, *parcels.REQUEST_FIELDS)
    asked = spec(home, written(tmp_path, frame))
    first = await home.start(asked)
    assert first.started
    ended = await home.ended(first.batch_prediction.batch_prediction_id)
    manifest = manifest_of(ended)
    again = await home.start(asked)
    assert not again.started
    assert again.batch_prediction == ended
    rerun = await home.run(asked, rerun=True)
    assert (rerun.batch_prediction_id, rerun.attempt) == (ended.batch_prediction_id, 2)
    assert manifest_of(rerun)["batch_prediction"]["attempt"] == 2
    assert [part["rows"] for part in manifest["parts"]] == [
        part["rows"] for part in manifest_of(rerun)["parts"]
    ]
    other = messages.BatchPredictionSpec()
    other.CopyFrom(asked)
    other.output.with_inputs = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.start(other)
    assert channel.from_rpc_error(caught.value).reason is errors.Reason.NAME_TAKEN


async def test_inline_entities(home: House) -> None:
    """A list of keys in the request needs no file."""
    frame = home.questions().select(*KEYS, *parcels.REQUEST_FIELDS).head(5)
    job = spec(home, None)
    job.input.rows.CopyFrom(column_messages.to_proto(interop.from_polars(frame)))
    ended = await home.run(job)
    assert output(ended)["status"].to_list() == [0] * 5
    assert ended.spec.input.url.startswith("rows:")


async def test_failed_job_and_again(home: House, tmp_path: Path) -> None:
    """A file that cannot be read fails the job by name and leaves nothing; mended, it runs."""
    frame = home.questions().select(*KEYS, *parcels.REQUEST_FIELDS)
    asked = spec(home, written(tmp_path, frame.drop("kind")))
    failed = await home.run(asked)
    assert failed.state == STATES.BATCH_PREDICTION_STATE_FAILED
    assert failed.error_reason == "INVALID_INPUT"
    assert "column 'kind': is not in the file" in failed.error
    above = home.folder / "output"
    assert [each for each in above.glob("**/*") if asked.name in each.name] == []
    written(tmp_path, frame)
    ended = await home.run(asked)
    assert (ended.batch_prediction_id, ended.attempt) == (failed.batch_prediction_id, 2)
    assert len(output(ended)) == len(frame)


async def test_list_by_name(home: House, tmp_path: Path) -> None:
    """Jobs are listed newest first, by name where one is asked for."""
    frame = home.questions().select(*KEYS, *parcels.REQUEST_FIELDS).head(3)
    asked = spec(home, written(tmp_path, frame))
    started = []
    for day in (1, 2):
        asked.event_time = parcels.midnight(day)
        started.append((await home.start(asked)).batch_prediction.batch_prediction_id)
    request = batch_service_pb2.ListBatchPredictionsRequest(name=asked.name, page_size=1)
    listed = []
    while True:
        page = await home.client.stubs.batch.ListBatchPredictions(request, timeout=SECONDS)
        listed += [each.batch_prediction_id for each in page.batch_predictions]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == started[::-1]
    for job_id in started:
        await home.ended(job_id)
