"""What was served is what was known: on the demo's path, and told by its cause where it is not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import redis
from tests.support import flown, waiting
from tests.support.flown import Flown
from typer.testing import CliRunner, Result

from setpoint.feature.v1 import audit_service_pb2 as pb
from setpoint.feature.v1 import feature_service_pb2
from setpoint.monitoring.v1 import ingest_service_pb2, monitoring_service_pb2, prediction_pb2
from setpoint_cli import main, session
from setpoint_columns import Column, Columns, DataType, proto
from setpoint_demo import definitions
from setpoint_devstack import valkey as valkey_server
from setpoint_runtime import ids
from setpoint_testkit import databases as database_pool

pytestmark = pytest.mark.timeout(300)

Change = Callable[[prediction_pb2.PredictionRecords], None]


@pytest_asyncio.fixture(scope="module")
async def world(
    databases: database_pool.Databases,
    valkey: valkey_server.ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Flown]:
    """Two days of flights that were asked about, and services that replay all that they served."""
    online = f"{valkey.url().rsplit('/', 1)[0]}/2"
    with redis.Redis.from_url(online) as store:
        store.flushdb()
    name = databases.create()
    settings: dict[str, Any] = {
        "skew_share": 1.0,
        "skew_seconds": 0.05,
        "skew_settle_seconds": 0.0,
    }
    folder = tmp_path_factory.mktemp("flown")
    async with flown.opened(folder, databases.url(name), online, **settings) as found:
        yield found
    databases.drop(name)


async def replayed(world: Flown, after: int) -> tuple[list[pb.FeatureSetSkew], int]:
    """Replays all records after one; returns what was found, and the last record."""
    found: list[pb.FeatureSetSkew] = []
    while True:
        answer = await world.client.stubs.audit.ReplayPredictions(
            pb.ReplayPredictionsRequest(after_record_id=after), timeout=60
        )
        found += answer.feature_sets
        after = answer.through_record_id
        if after >= answer.newest_record_id:
            return found, after


async def command(world: Flown, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Runs a command of ``features``; the services go on meanwhile."""
    settings = {**world.addresses, "caller": "test"}
    monkeypatch.setattr(session, "_settings", lambda _: settings)
    monkeypatch.setattr(session.console, "width", 400)
    given = ["features", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main.app, given)


async def last_record(world: Flown) -> int:
    """Returns the number of the newest record."""
    answer = await world.client.stubs.monitoring.SampleRecords(
        monitoring_service_pb2.SampleRecordsRequest(), timeout=60
    )
    return answer.newest_record_id


async def causes_of(world: Flown, row: dict[str, Any]) -> dict[str, set[str]]:
    """Asks about a flight, and returns the features that were served otherwise, by cause."""
    before = await last_record(world)
    await world.ask(row)
    return by_cause((await replayed(world, before))[0])


def by_cause(found: list[pb.FeatureSetSkew]) -> dict[str, set[str]]:
    """Returns the features that differ, by the name of the cause."""
    causes: dict[str, set[str]] = {}
    for each in found:
        for difference in each.differences:
            name = pb.SkewCause.Name(difference.cause).removeprefix("SKEW_CAUSE_")
            causes.setdefault(name, set()).add(difference.feature)
    return causes


async def online_key(world: Flown, store: redis.Redis, view: str, entity: str) -> bytes:
    """Returns the key under which the online store holds an entity of a view."""
    answer = await world.client.stubs.feature.GetFeatureView(
        feature_service_pb2.GetFeatureViewRequest(name=view), timeout=60
    )
    version = answer.view.version.encode()
    [found] = [key for key in store.scan_iter() if version in key and entity.encode() in key]
    assert isinstance(found, bytes)
    return found


async def test_replay_of_the_demos_path_finds_no_difference(world: Flown) -> None:
    """Proves that every value of every prediction was served as it was known, to the bit."""
    asked = len(world.answers.prediction_id)
    assert asked > 150
    await world.recorded(world.answers.prediction_id[-1])

    async def count() -> int:
        found, _ = await replayed(world, 0)
        return sum(each.predictions for each in found)

    await waiting.until(count, lambda number: number == asked)
    found, last = await replayed(world, 0)
    assert by_cause(found) == {}
    features = len(definitions.feature_set().features)
    assert sum(each.values for each in found) == asked * features

    async def report() -> pb.GetSkewReportResponse:
        return await world.client.stubs.audit.GetSkewReport(pb.GetSkewReportRequest(), timeout=60)

    kept = await waiting.until(report, lambda each: each.through_record_id >= last)
    (skew,) = kept.feature_sets
    assert (skew.predictions, skew.differing_predictions, len(skew.differences)) == (asked, 0, 0)
    assert kept.is_replaying


async def test_command_ends_well_where_nothing_differs(
    world: Flown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that both ways to ask say how much was compared, and end with 0."""
    now = await command(world, monkeypatch, "skew", "--replay")
    assert now.exit_code == 0, now.output
    assert f"{len(world.answers.prediction_id)}" in now.output
    assert "records up to number" in now.output
    kept = await command(world, monkeypatch, "skew")
    assert kept.exit_code == 0, kept.output
    assert "and it goes on" in kept.output


async def test_explanation_of_a_served_value_is_printed(
    world: Flown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that the command shows the rows that lost beside the one that won."""
    row = world.questions.row(-1, named=True)
    keys = [f"--entity={name}={row[name]}" for name in ("carrier", "origin", "tailnum")]
    time = row["question_time"].isoformat()
    feature = f"{definitions.FEATURE_SET}.temp"
    shown = await command(world, monkeypatch, "explain", feature, *keys, "--time", time)
    assert shown.exit_code == 0, shown.output
    assert "it is the greatest row that was known" in shown.output
    assert "younger" in shown.output
    assert "the greatest row; serves" in shown.output


async def test_late_write_is_told(world: Flown) -> None:
    """Proves that a row that is written after the answer, and claims to be older, is the cause."""
    row = world.questions.row(-1, named=True)
    before = await last_record(world)
    await world.ask(row)
    late = Columns.from_dict(
        {
            "origin": (DataType.STRING, [row["origin"]]),
            "event_time": (DataType.TIMESTAMP, [row["question"]]),
            "created_time": (DataType.TIMESTAMP, [row["question"]]),
            "temp": (DataType.FLOAT64, [99.0]),
        }
    )
    request = feature_service_pb2.WriteFeaturesRequest(
        batch_id=ids.uuid7(), view="weather", rows=proto.to_proto(late)
    )
    await world.client.stubs.feature.WriteFeatures(request, timeout=60)
    found, _ = await replayed(world, before)
    causes = by_cause(found)
    assert set(causes) == {"LATE_WRITE"}
    assert {"temp", "humid"} <= causes["LATE_WRITE"]
    [example] = [each.examples[0] for each in found[0].differences if each.feature == "temp"]
    assert (example.known, example.as_of_time) == ("99.0", row["question"])


async def test_lost_copy_is_told(world: Flown) -> None:
    """Proves that a value that the online store has lost is told as such."""
    row = world.questions.row(-2, named=True)
    with redis.Redis.from_url(world.valkey_url) as store:
        key = await online_key(world, store, "carrier_lateness", row["carrier"])
        kept = store.get(key)
        store.delete(key)
        causes = await causes_of(world, row)
        store.set(key, kept)
    assert causes == {"COPY_BEHIND": {"carrier_late_share_24h", "carrier_late_share_7d"}}
    assert await causes_of(world, row) == {}


async def test_changed_bit_is_told(world: Flown) -> None:
    """Proves that one bit of an online value that nobody wrote is found, and where it is."""
    row = world.questions.row(-2, named=True)
    with redis.Redis.from_url(world.valkey_url) as store:
        key = await online_key(world, store, "carrier_lateness", row["carrier"])
        kept = store.get(key)
        assert isinstance(kept, bytes)
        # Three floats: the first ends 16 bytes before the end; its lowest bit is changed.
        position = len(kept) - 24
        changed = bytes([*kept[:position], kept[position] ^ 1, *kept[position + 1 :]])
        store.set(key, changed)
        causes = await causes_of(world, row)
        store.set(key, kept)
    assert causes == {"VALUE": {"carrier_late_share_24h"}}


async def test_command_ends_badly_where_something_differs(
    world: Flown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that differences are shown with cause and example, and end with 1."""
    now = await command(world, monkeypatch, "skew", definitions.FEATURE_SET, "--replay")
    assert now.exit_code == 1, now.output
    assert "late write" in now.output
    assert "99.0" in now.output


async def test_question_about_the_past_is_told(world: Flown) -> None:
    """Proves that an answer is told that only the history could have given."""
    row = {
        **world.questions.row(-2, named=True),
        "question": world.questions.row(0, named=True)["question"],
    }
    causes = await causes_of(world, row)
    assert set(causes) == {"PAST_QUESTION"}
    assert "carrier_late_share_24h" in causes["PAST_QUESTION"]


async def copied(world: Flown, change: Change) -> dict[str, set[str]]:
    """Ships a copy of the newest record that somebody has changed, and replays it."""
    row = world.questions.row(-2, named=True)
    before = await last_record(world)
    await world.ask(row)
    sample = await world.client.stubs.monitoring.SampleRecords(
        monitoring_service_pb2.SampleRecordsRequest(after_record_id=before), timeout=60
    )
    record = sample.records[-1].record
    other = Column.from_list("prediction_id", [ids.uuid7()], DataType.STRING)
    rest = proto.from_proto(record.predictions).without("prediction_id")
    record.predictions.CopyFrom(proto.to_proto(rest.with_column(other)))
    change(record)
    await world.client.stubs.ingest.IngestPredictions(
        ingest_service_pb2.IngestPredictionsRequest(records=[record]), timeout=60
    )
    found, _ = await replayed(world, sample.through_record_id)
    return by_cause(found)


def place(record: prediction_pb2.PredictionRecords, name: str) -> int:
    """Returns where an input is."""
    return [column.name for column in record.inputs.columns].index(name)


def stale(record: prediction_pb2.PredictionRecords) -> None:
    """Says that a fresh value was stale."""
    record.input_statuses[place(record, "carrier_late_share_7d")] = b"\x02"


def unanswered(record: prediction_pb2.PredictionRecords) -> None:
    """Says that features did not come in time."""
    record.input_statuses[place(record, "carrier_late_share_7d")] = b"\x03"
    told = Column.from_list("degradations", ["FEATURES_UNAVAILABLE:x"], DataType.STRING)
    rest = proto.from_proto(record.predictions).without("degradations")
    record.predictions.CopyFrom(proto.to_proto(rest.with_column(told)))


def gone(record: prediction_pb2.PredictionRecords) -> None:
    """Names a version that there is not."""
    record.feature_set.version = "0" * 16


@pytest.mark.parametrize(
    ("change", "cause"),
    [(stale, "STALENESS"), (unanswered, "NO_ANSWER"), (gone, "DEFINITION")],
)
async def test_foreign_record_is_told(world: Flown, change: Change, cause: str) -> None:
    """Proves that what this service would never do is told where a record says that it was done."""
    assert set(await copied(world, change)) == {cause}
