import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors

MODULE = "made_up_transformations"
SOURCE = """
import os
import threading
import time

import numpy as np

from setpoint_features import DataType, transformation


@transformation(DataType.FLOAT64)
def speed(distance, minutes):
    return distance / minutes * 60


@transformation(DataType.STRING)
def label(speed, tail):
    return np.array([f"{name} {round(each)}" for name, each in zip(tail, speed)], object)


@transformation(DataType.INT64, takes_nulls=True)
def count(distance, minutes):
    return 2 - np.ma.getmaskarray(distance).astype(int) - np.ma.getmaskarray(minutes).astype(int)


@transformation(DataType.FLOAT64)
def picky(distance):
    if (distance < 0).any():
        raise ValueError(f"bad {distance}")
    return distance


@transformation(DataType.FLOAT64)
def centred(distance):
    return distance - distance.mean()


@transformation(DataType.FLOAT64)
def slept(distance):
    time.sleep(0.002)
    is_loop = threading.current_thread() is threading.main_thread()
    return np.full(len(distance), float(is_loop))


@transformation(DataType.FLOAT64)
def endless(distance):
    while not os.path.exists("GATE"):
        time.sleep(0.01)
    return distance
"""
DISTANCE = testing.spec("distance", DataType.FLOAT64)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with transformations, on the path of this process."""
    path = tmp_path / f"{MODULE}.py"
    path.write_text(SOURCE.replace("GATE", str(tmp_path / "gate")), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop(MODULE, None)


@pytest.fixture
async def client(start: Start, module: Path) -> AsyncIterator[Client]:
    """Calls of a feature service that knows the module."""
    async with start(modules=MODULE) as running:
        await prepare(running.client)
        yield running.client


async def prepare(client: Client) -> None:
    await client.entity("plane", plane=DataType.INT64)
    fields = [("minutes", DataType.FLOAT64), ("tail", DataType.STRING, "none")]
    await client.view("planes", "plane", fields, ttl_microseconds=20)
    await register(client, "speed", "label", "count")


async def register(client: Client, *names: str, **options: Any) -> definition_pb2.FeatureSet:
    made = [definition_pb2.Transformation(name=name, function=f"{MODULE}:{name}") for name in names]
    return await client.feature_set(
        "flights",
        [testing.reference("planes", "minutes"), testing.reference("planes", "tail")],
        request_fields=[DISTANCE, testing.spec("hour", DataType.INT64)],
        transformations=made,
        **options,
    )


def planes(events: list[int], values: list[float | None]) -> Columns:
    table: testing.Table = {
        "plane": (DataType.INT64, list(range(len(events)))),
        "event_time": (DataType.TIMESTAMP, [NOW + event for event in events]),
        "created_time": (DataType.TIMESTAMP, [NOW + event for event in events]),
        "minutes": (DataType.FLOAT64, values),
        "tail": (DataType.STRING, [f"N{at}" for at in range(len(events))]),
    }
    return Columns.from_dict(table)


def asked(entities: list[int | None], distances: list[float | None]) -> Columns:
    return Columns.from_dict(
        {
            "plane": (DataType.INT64, entities),
            "distance": (DataType.FLOAT64, distances),
        }
    )


async def test_set_is_described_with_what_it_needs(client: Client) -> None:
    """Whoever asks for a set learns which request fields go along, and what its functions are."""
    reference = reference_pb2.FeatureSetReference(name="flights")
    found = await client.stub.GetFeatureSet(pb.GetFeatureSetRequest(feature_set=reference))

    assert [each.name for each in found.request_columns] == ["distance"]
    (speed, label, _) = found.feature_set.transformations
    assert dict(label.inputs) == {"speed": "speed", "tail": "tail"}
    assert speed.dtype == int(DataType.FLOAT64)
    assert len(speed.source_hash) == 16
    assert "def speed(distance, minutes)" in speed.source


async def test_what_is_computed_of_sensitive_values_is_sensitive(client: Client) -> None:
    """A mark follows a value through everything that is computed from it."""
    view = testing.view_message(
        "planes",
        "plane",
        [("minutes", DataType.FLOAT64), ("tail", DataType.STRING, "none")],
        ttl_microseconds=20,
    )
    view.fields[0].sensitive = True
    await client.stub.RegisterFeatureView(
        pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=view)
    )
    reference = reference_pb2.FeatureSetReference(name="flights")
    found = await client.stub.GetFeatureSet(pb.GetFeatureSetRequest(feature_set=reference))

    assert list(found.sensitive_columns) == ["count", "label", "minutes", "speed"]


async def test_online_answers_derived_columns(client: Client) -> None:
    """Derived columns follow the features, each with the worst status and oldest time of its inputs."""
    await client.write("planes", planes([-5, -30, -1], [30.0, 60.0, 0.0]))

    found = await client.online("flights", asked([0, 1, 2, 9], [100.0, 100.0, 100.0, None]), NOW)

    assert found.values["speed"] == [200.0, None, None, None]
    assert found.values["label"] == ["N0 200", None, None, None]
    assert found.values["count"] == [2, 1, 2, 0]
    assert found.statuses[2:] == [[1, 2, 3, 3], [1, 2, 3, 3], [1, 2, 1, 4]]
    assert found.event_times[2] == [NOW - 5, NOW - 30, NOW - 1, -1]


async def test_online_equals_offline(client: Client) -> None:
    """Whatever was written, both paths compute the same, with the same statuses and times."""
    seed = random.Random(7)
    for _ in range(3):
        count = 6
        events = [seed.randrange(-40, 0) for _ in range(count)]
        values = [seed.choice([None, 0.0, 7.5, 60.0, -1e300]) for _ in range(count)]
        await client.write("planes", planes(events, values))
        entities = asked(
            [seed.choice([None, *range(8)]) for _ in range(20)],
            [seed.choice([None, 0.0, 1.5, 1e300]) for _ in range(20)],
        )
        for time in (NOW, NOW + 12):
            online = await client.online("flights", entities, time)
            column = Columns.from_dict({"event_time": (DataType.TIMESTAMP, [time] * 20)})
            spine = entities.with_column(column["event_time"])
            (offline,) = await client.historical("flights", spine)
            assert online == offline


async def test_request_column_that_is_absent_is_named(client: Client) -> None:
    """What a transformation reads of the request must come along, on both paths."""
    spine: testing.Table = {
        "plane": (DataType.INT64, [1]),
        "event_time": (DataType.TIMESTAMP, [NOW]),
    }
    table = Columns.from_dict(spine)

    online = await testing.error_of(client.online("flights", table))
    offline = await testing.error_of(client.historical("flights", table))

    assert (online.reason, offline.reason) == (errors.Reason.MISSING_FIELD,) * 2
    assert online.violations[0].field == "entities.distance"
    assert offline.violations[0].field == "spine.distance"


async def test_set_of_request_fields_alone(client: Client) -> None:
    """A set that looks nothing up computes with what the request holds, on both paths."""
    made = definition_pb2.Transformation(name="picky", function=f"{MODULE}:picky")
    await client.feature_set("given", [], request_fields=[DISTANCE], transformations=[made])
    rows = Columns.from_dict({"distance": (DataType.FLOAT64, [1.5, None])})
    times = Columns.from_dict({"event_time": (DataType.TIMESTAMP, [NOW] * 2)})

    online = await client.online("given", rows)
    (offline,) = await client.historical("given", rows.with_column(times["event_time"]))

    assert online == offline
    assert online.values == {"picky": [1.5, None]}
    assert (online.statuses, online.event_times) == ([[5, 5]], [[-1, -1]])


async def test_failing_transformation_is_named_and_spares_other_rows(client: Client) -> None:
    """The error names it and holds no value; the same rows without the bad one are answered."""
    await register(client, "picky")

    error = await testing.error_of(client.online("flights", asked([0, 1], [-77.25, 2.0])))
    good = await client.online("flights", asked([1], [2.0]))

    assert isinstance(error, errors.InternalError)
    assert error.reason is errors.Reason.TRANSFORMATION_FAILED
    assert error.metadata["transformation"] == "picky"
    assert "77.25" not in error.message
    assert good.values["picky"] == [2.0]


async def test_transformation_that_mixes_rows_is_refused(client: Client) -> None:
    """A function that looks at its rows together is refused before it answers one with another."""
    await register(client, "centred")
    rows = asked([0, 1, 2], [1.0, 2.0, 6.0])
    times = Columns.from_dict({"event_time": (DataType.TIMESTAMP, [NOW] * 3)})

    online = await testing.error_of(client.online("flights", rows))
    offline = await testing.error_of(
        client.historical("flights", rows.with_column(times["event_time"]))
    )

    for error in (online, offline):
        assert error.reason is errors.Reason.TRANSFORMATION_FAILED
        assert "company of other rows" in error.message


async def test_transformation_that_mixes_rows_answers_nobody_afterwards(client: Client) -> None:
    """Rows that look alike hide it for a while; once it is found, asking for fewer rows helps nobody."""
    await register(client, "centred")

    alike = await client.online("flights", asked([0, 1], [3.0, 3.0]))
    again = await testing.error_of(client.online("flights", asked([0, 1], [1.0, 2.0])))
    alone = await testing.error_of(client.online("flights", asked([0], [1.0])))

    assert alike.values["centred"] == [0.0, 0.0]
    for error in (again, alone):
        assert error.reason is errors.Reason.TRANSFORMATION_FAILED
        assert "company of other rows" in error.message
        assert error.metadata["transformation"] == "centred"


async def test_transformation_that_waits_stays_off_the_event_loop(client: Client) -> None:
    """One that hardly works but sleeps, or reads a file, never runs where all others wait for it."""
    await register(client, "slept")
    for _ in range(3):
        found = await client.online("flights", asked([0], [1.0]))
        assert found.values["slept"] == [0.0]


async def test_transformation_that_does_not_return_is_refused(
    client: Client, tmp_path: Path
) -> None:
    """Its calls end with their deadlines; then further ones are refused at once, online and joined, and other
    sets are answered.
    """
    await register(client, "endless")
    made = definition_pb2.Transformation(name="picky", function=f"{MODULE}:picky")
    await client.feature_set("given", [], request_fields=[DISTANCE], transformations=[made])
    row = asked([0], [1.0])
    request = pb.GetOnlineFeaturesRequest(
        feature_set=reference_pb2.FeatureSetReference(name="flights"), entities=proto.to_proto(row)
    )
    try:
        async with asyncio.timeout(40):
            # A machine that pauses may let a deadline pass before the call begins.
            while True:
                error = await testing.error_of(client.stub.GetOnlineFeatures(request, timeout=0.2))
                if not isinstance(error, errors.DeadlineExceededError):
                    break
        assert isinstance(error, errors.UnavailableError)
        assert error.reason is errors.Reason.TRANSFORMATION_STUCK
        times = Columns.from_dict({"event_time": (DataType.TIMESTAMP, [NOW])})
        joined = client.historical("flights", row.with_column(times["event_time"]))
        assert (await testing.error_of(joined)).reason is errors.Reason.TRANSFORMATION_STUCK
        other = await client.online("given", row.select(["distance"]))
        assert other.values == {"picky": [1.0]}
    finally:
        (tmp_path / "gate").touch()


async def test_changed_code_is_a_mismatch_at_serving(
    start: Start, module: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A service with other code refuses the set with both hashes, without the code too, and a new version works."""

    @contextlib.asynccontextmanager
    async def service(modules: str) -> AsyncIterator[Client]:
        sys.modules.pop(MODULE, None)
        async with start(modules=modules) as running:
            yield running.client

    async with service(MODULE) as client:
        await prepare(client)
        reference = reference_pb2.FeatureSetReference(name="flights")
        before = await client.stub.GetFeatureSet(pb.GetFeatureSetRequest(feature_set=reference))
    module.write_text(SOURCE.replace("* 60", "* 60.5"), encoding="utf-8")
    caplog.clear()
    async with service(MODULE) as client:
        assert "feature set flights cannot be served here: transformation 'speed'" in caplog.text
        error = await testing.error_of(client.online("flights", asked([0], [1.0])))
        new = await register(client, "speed", "label", "count")
        assert (await client.online("flights", asked([0], [1.0]))).values["speed"] == [None]
    async with service("") as client:
        absent = await testing.error_of(client.online("flights", asked([0], [1.0])))

    speeds = [before.feature_set.transformations[0].source_hash, new.transformations[0].source_hash]
    assert isinstance(error, errors.FailedPreconditionError)
    assert error.reason is errors.Reason.TRANSFORMATION_MISMATCH
    assert [error.metadata["expected"], error.metadata["found"]] == speeds
    assert new.version != before.feature_set.version
    assert isinstance(absent, errors.FailedPreconditionError)
    assert absent.reason is errors.Reason.TRANSFORMATION_NOT_FOUND


async def test_circle_is_refused_by_its_names(client: Client) -> None:
    """Two transformations that read each other are no feature set."""
    made = [
        definition_pb2.Transformation(
            name=name, function=f"{MODULE}:picky", inputs={"distance": other}
        )
        for name, other in (("a", "b"), ("b", "a"))
    ]

    error = await testing.error_of(client.feature_set("circle", [], transformations=made))

    assert isinstance(error, errors.InvalidArgumentError)
    assert error.violations[0].field in {
        f"feature_set.transformations[{at}].inputs" for at in (0, 1)
    }
    assert "a reads b" in error.violations[0].description


async def test_tags_and_owners_come_back_and_make_no_version(client: Client) -> None:
    """What people note is stored and read again, and the version stays."""
    before = await register(client, "speed")
    after = await register(client, "speed", owner="ops", tags={"team": "ops", "tier": "1"})
    view = testing.view_message("noted", "plane", [("x", DataType.FLOAT64)], tags={"a/b": "c"})
    view.fields[0].tags["unit"] = "m"
    stored = await client.stub.RegisterFeatureView(
        pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=view)
    )
    view.tags["bad key"] = ""
    error = await testing.error_of(
        client.stub.RegisterFeatureView(
            pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=view)
        )
    )

    assert (after.owner, dict(after.tags)) == ("ops", {"team": "ops", "tier": "1"})
    assert after.version == before.version
    assert dict(stored.view.tags) == {"a/b": "c"}
    assert dict(stored.view.fields[0].tags) == {"unit": "m"}
    assert error.violations[0].field == "view.tags"
