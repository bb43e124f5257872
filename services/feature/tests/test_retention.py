"""Retention as callers meet it: a question about what is gone is refused, by name and time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import (
    aggregation_pb2,
    audit_service_pb2,
    definition_pb2,
    snapshot_service_pb2,
)
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Running, Start
from setpoint_rpc import channel as channels
from setpoint_runtime import errors

DAY = 86_400_000_000
SETTINGS: dict[str, Any] = {"recent_rows": 0, "move_rows": 1, "compact_seconds": 0.02}
OLD = NOW - 3 * DAY
"""A time before the day that the view keeps."""


def rows(*events: int, plane: int = 1) -> Columns:
    """Returns the rows of a plane, known at once."""
    table: testing.Table = {
        "plane": (DataType.INT64, [plane] * len(events)),
        "event_time": (DataType.TIMESTAMP, list(events)),
        "created_time": (DataType.TIMESTAMP, list(events)),
        "count": (DataType.INT64, list(range(len(events)))),
    }
    return Columns.from_dict(table)


def spine(*times: int) -> Columns:
    """Returns questions about a plane."""
    return rows(*times).select(["plane", "event_time", "count"])


@pytest.fixture
async def thinned(start: Start) -> AsyncIterator[Running]:
    """A service whose view has lost the rows that nobody could see for a day, and a snapshot from before."""
    async with start(**SETTINGS) as running:
        client = running.client
        await client.entity("plane", plane=DataType.INT64)
        await client.view("planes", "plane", [("count", DataType.INT64)])
        await client.feature_set("all", [testing.reference("planes", "count")])
        await client.write("planes", rows(*range(NOW - 5 * DAY, NOW + 1, DAY // 2)))
        yield running


async def forget(running: Running) -> int:
    """Declares a retention of a day, and returns from when on the view is complete, once rows are gone."""
    await running.client.view(
        "planes", "plane", [("count", DataType.INT64)], retention_microseconds=DAY
    )
    while True:
        try:
            await running.client.historical("all", spine(OLD))
        except grpc.aio.AioRpcError as error:
            found = channels.from_rpc_error(error)
            assert isinstance(found, errors.OutOfRangeError), found
            return int(found.metadata["complete_from_time"])


async def collected(call: Any) -> list[Any]:
    """Returns all that a stream answers."""
    return [each async for each in call]


async def test_every_question_about_the_past_is_refused_by_name(thinned: Running) -> None:
    """Join, scan, explanation, both leak checks and comparison name view, time and from when on it answers."""
    client = thinned.client
    table = spine(OLD)
    header = snapshot_service_pb2.CreateSnapshotRequest(
        request_id=testing.request_id(),
        feature_set=reference_pb2.FeatureSetReference(name="all"),
        spine=proto.to_proto(table.without("count")),
    )
    kept = (await thinned.snapshots.CreateSnapshot(iter([header]))).snapshot
    header.request_id = testing.request_id()
    header.spine.CopyFrom(proto.to_proto(spine(OLD, NOW, OLD + DAY, NOW - DAY).without("count")))
    mixed = (await thinned.snapshots.CreateSnapshot(iter([header]))).snapshot
    since = await forget(thinned)
    assert since == NOW - DAY

    column = pb.LeakageColumn(column="count", view="planes", field="count")
    leaks = audit_service_pb2.MeasureLeaksRequest(table=proto.to_proto(table), columns=[column])
    found = audit_service_pb2.MeasureLeaksRequest(table=proto.to_proto(table), find_columns=True)
    asked: dict[str, Callable[[], Awaitable[Any]]] = {
        "spine.event_time[1]": lambda: client.historical("all", spine(NOW, OLD)),
        "range.start_time": lambda: collected(
            client.stub.ReadFeatureView(
                pb.ReadFeatureViewRequest(
                    view="planes", range=reference_pb2.TimeRange(start_time=OLD, end_time=NOW)
                )
            )
        ),
        "time": lambda: thinned.audit.ExplainFeature(
            audit_service_pb2.ExplainFeatureRequest(
                view="planes", field="count", entity=proto.to_proto(table), as_of_time=OLD
            )
        ),
        "table.event_time[0]": lambda: client.stub.CheckLeakage(
            pb.CheckLeakageRequest(columns=[column], table=proto.to_proto(table))
        ),
        "table.event_time[0] ": lambda: thinned.audit.MeasureLeaks(iter([leaks])),
        # Whether a column holds a stored field cannot be told either.
        "table.event_time[0]  ": lambda: thinned.audit.MeasureLeaks(iter([found])),
        "spine.event_time[0]": lambda: thinned.snapshots.CompareSnapshot(
            snapshot_service_pb2.CompareSnapshotRequest(snapshot_id=kept.snapshot_id)
        ),
    }
    for field, ask in asked.items():
        error = await testing.error_of(ask())
        assert isinstance(error, errors.OutOfRangeError), field
        assert error.reason is errors.Reason.HISTORY_REMOVED
        later = since + (field == "range.start_time")
        told = {"view": "planes", "time": str(OLD), "complete_from_time": str(later)}
        assert error.metadata == told
        assert [each.field for each in error.violations] == [field.strip()]

    # What was kept is there as ever, and so is what is not gone.
    request = snapshot_service_pb2.ReadSnapshotRequest(snapshot_id=kept.snapshot_id)
    assert len(await collected(thinned.snapshots.ReadSnapshot(request))) == 1
    (answer,) = await client.historical("all", spine(since, NOW))
    assert answer.values == {"count": [8, 10]}
    # Of a snapshot some of whose rows can be asked about again, those are compared.
    await client.write("planes", rows(NOW - 1, NOW))
    compared = await thinned.snapshots.CompareSnapshot(
        snapshot_service_pb2.CompareSnapshotRequest(snapshot_id=mixed.snapshot_id)
    )
    for side in (compared.asked_again, compared.known_now):
        assert (side.rows, side.removed_rows, side.share) == (1, 2, 0.5)
        assert dict(side.rows_by_feature) == {"count": 1}
    everything = await collected(
        client.stub.ReadFeatureView(pb.ReadFeatureViewRequest(view="planes"))
    )
    assert [proto.from_proto(each.rows).rows for each in everything] == [4]


def windows(days: int, name: str = "sums") -> definition_pb2.FeatureView:
    """Returns the definition of counts over some days of the view."""
    view = definition_pb2.FeatureView(name=name, entity="plane")
    view.aggregation.source = "planes"
    for each in (1, days):
        view.aggregation.fields.add(
            name=f"count{each}",
            function=aggregation_pb2.AGGREGATE_FUNCTION_COUNT,
            window_microseconds=each * DAY,
            hop_microseconds=DAY,
        )
    return view


async def test_windows_over_rows_that_are_gone_are_refused_at_registration(
    thinned: Running,
) -> None:
    """The refusal says from when on which window is complete; then it is accepted, and nothing more is removed."""
    client = thinned.client
    since = await forget(thinned)

    async def register() -> None:
        await client.stub.RegisterFeatureView(
            pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=windows(4))
        )

    error = await testing.error_of(register())
    assert isinstance(error, errors.FailedPreconditionError)
    assert error.reason is errors.Reason.HISTORY_REMOVED
    assert error.metadata["source"] == "planes"
    complete = int(error.metadata["complete_from_time"])
    # The last event that may be gone leaves a window up to a hop late.
    assert complete == since // DAY * DAY + 5 * DAY
    fields = [each.field for each in error.violations]
    assert fields == [f"view.aggregation.fields[{index}].window_microseconds" for index in (0, 1)]

    await client.view("planes", "plane", [("count", DataType.INT64)])
    thinned.clock.set(complete)
    await register()
    await client.feature_set("counts", [testing.reference("sums", "count4")])
    await client.view("planes", "plane", [("count", DataType.INT64)], retention_microseconds=DAY)
    entities = spine(0).select(["plane"])
    online = await client.online("counts", entities)
    (offline,) = await client.historical("counts", spine(complete))
    assert online.values == offline.values == {"count4": [2]}
    before = complete - 1
    for ask in (
        lambda: client.historical("counts", spine(before)),
        lambda: client.online("counts", entities, before),
    ):
        error = await testing.error_of(ask())
        assert isinstance(error, errors.OutOfRangeError)
        assert error.metadata["complete_from_time"] == str(complete)
