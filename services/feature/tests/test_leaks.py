from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from setpoint.feature.v1 import audit_service_pb2 as pb
from setpoint.feature.v1 import definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as feature_pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Running, Start
from setpoint_runtime import errors

HOUR = 3_600_000_000
FLIGHTS = 40
ASKED = NOW - 10 * HOUR
"""When the questions about the flights were asked."""


@pytest.fixture
async def running(start: Start) -> AsyncIterator[Running]:
    """Flights whose delay is known at landing, and whose gate arrives late; weather of the hour."""
    async with start() as found:
        client = found.client
        await client.entity("flight", flight=DataType.INT64)
        await client.entity("airport", airport=DataType.STRING)
        await client.view("landed", "flight", [("delay", DataType.FLOAT64)])
        await client.view("gates", "flight", [("gate", DataType.STRING)])
        exclusive = definition_pb2.BOUNDARY_EXCLUSIVE
        await client.view("wind", "airport", [("knots", DataType.INT32)], boundary=exclusive)
        await client.view("sky", "airport", [("clouds", DataType.INT32)])
        features = [
            testing.reference("gates", "gate"),
            testing.reference("sky", "clouds"),
            testing.reference("landed", "delay"),
        ]
        await client.feature_set("set", features)
        numbers = list(range(FLIGHTS))
        await write(found, "landed", numbers, 4 * HOUR, 4 * HOUR, delay=float)
        await write(found, "gates", numbers, -2 * HOUR, HOUR, gate=lambda number: f"G{number}")
        for view, field in (("wind", "knots"), ("sky", "clouds")):
            times = [ASKED - HOUR, ASKED, ASKED + HOUR]
            table: testing.Table = {
                "airport": (DataType.STRING, ["JFK"] * 3),
                "event_time": (DataType.TIMESTAMP, times),
                "created_time": (DataType.TIMESTAMP, times),
                field: (DataType.INT32, [5, 6, 7]),
            }
            await client.write(view, Columns.from_dict(table))
        yield found


async def write(
    running: Running,
    view: str,
    numbers: list[int],
    event: int,
    created: int,
    **fields: Callable[[int], Any],
) -> None:
    """Writes a row of each flight, with its number as a value."""
    ((name, make),) = fields.items()
    dtype = DataType.FLOAT64 if make is float else DataType.STRING
    table: testing.Table = {
        "flight": (DataType.INT64, numbers),
        "event_time": (DataType.TIMESTAMP, [ASKED + event] * len(numbers)),
        "created_time": (DataType.TIMESTAMP, [ASKED + created] * len(numbers)),
        name: (dtype, [make(number) for number in numbers]),
    }
    await running.client.write(view, Columns.from_dict(table))


def table_of(**columns: tuple[DataType, list[object]]) -> Columns:
    """Returns questions about all flights, with further columns."""
    numbers = list(range(FLIGHTS))
    common: testing.Table = {
        "flight": (DataType.INT64, numbers),
        "airport": (DataType.STRING, ["JFK"] * FLIGHTS),
        "event_time": (DataType.TIMESTAMP, [ASKED] * FLIGHTS),
    }
    return Columns.from_dict({**common, **columns})


async def measure(
    running: Running, table: Columns, pieces: int = 1, header: bool = False, **options: Any
) -> pb.MeasureLeaksResponse:
    """Measures a table, in pieces; behind one without rows where a header is asked for."""
    step = -(-table.rows // pieces)

    async def requests() -> AsyncIterator[pb.MeasureLeaksRequest]:
        if header:
            yield pb.MeasureLeaksRequest(table=proto.to_proto(table.slice(0, 0)), **options)
        for start in range(0, table.rows, step):
            piece = proto.to_proto(table.slice(start, start + step))
            is_first = start == 0 and not header
            yield pb.MeasureLeaksRequest(table=piece, **(options if is_first else {}))

    return await running.audit.MeasureLeaks(requests())


def claim(column: str, view: str, field: str) -> feature_pb.LeakageColumn:
    """Returns what a column claims to hold."""
    return feature_pb.LeakageColumn(column=column, view=view, field=field)


def set_reference() -> object:
    """Returns the reference to the feature set."""
    request = pb.MeasureLeaksRequest()
    request.feature_set.name = "set"
    return request.feature_set


async def test_careless_joins_are_named(running: Running) -> None:
    """Each leaking column is told with the bound that was missed and the join that missed it."""
    table = table_of(
        delay=(DataType.FLOAT64, [float(number) for number in range(FLIGHTS)]),
        gate=(DataType.STRING, [f"G{number}" for number in range(FLIGHTS)]),
        clouds=(DataType.INT32, [7] * FLIGHTS),
        sky=(DataType.INT32, [6] * FLIGHTS),
        wind=(DataType.INT32, [6] * FLIGHTS),
    )
    claims = [claim("wind", "wind", "knots"), claim("sky", "sky", "clouds")]
    options: dict[str, Any] = {"feature_set": set_reference(), "columns": claims}
    found = await measure(running, table, pieces=3, **options)
    assert await measure(running, table, **options) == found
    by_column = {each.column: each for each in found.findings}
    assert list(by_column) == ["wind", "sky", "gate", "clouds", "delay"]
    assert found.rows == FLIGHTS

    def told(name: str) -> Any:
        each = by_column[name]
        causes = [(cause.cause, cause.values) for cause in each.causes]
        full = {join.join for join in each.joins if join.values == each.leaked}
        return each.leaked, causes, full

    every = {pb.LEAK_JOIN_LATEST, pb.LEAK_JOIN_NEXT}
    assert told("delay") == (FLIGHTS, [(pb.LEAK_CAUSE_FUTURE, FLIGHTS)], every)
    assert told("clouds") == (FLIGHTS, [(pb.LEAK_CAUSE_FUTURE, FLIGHTS)], every)
    by_event = {pb.LEAK_JOIN_AS_OF_EVENT_TIME, pb.LEAK_JOIN_LATEST}
    assert told("gate") == (FLIGHTS, [(pb.LEAK_CAUSE_LATE_ARRIVAL, FLIGHTS)], by_event)
    assert told("wind") == (FLIGHTS, [(pb.LEAK_CAUSE_BOUNDARY, FLIGHTS)], set())
    assert told("sky") == (0, [], set())
    assert (by_column["sky"].at_boundary, by_column["gate"].at_boundary) == (FLIGHTS, 0)
    assert list(by_column["delay"].rows) == list(range(10))
    gate = by_column["gate"]
    assert (gate.view, gate.field, gate.origin) == ("gates", "gate", pb.LEAK_ORIGIN_FEATURE_SET)
    assert gate.causes[0].shortest_microseconds == gate.causes[0].longest_microseconds == HOUR


async def test_request_for_a_training_set_is_judged_by_its_join(running: Running) -> None:
    """A spine alone is judged by what its join gives: known at T leaks nothing, by event time does."""
    honest = await measure(running, table_of(), feature_set=set_reference())
    assert [(each.column, each.leaked) for each in honest.findings] == [
        ("gate", 0),
        ("clouds", 0),
        ("delay", 0),
    ]
    assert {each.origin for each in honest.findings} == {pb.LEAK_ORIGIN_JOINED}
    assert honest.findings[1].at_boundary == FLIGHTS
    careless = await measure(
        running, table_of(), feature_set=set_reference(), as_of_event_time=True
    )
    assert [(each.column, each.leaked) for each in careless.findings] == [
        ("gate", FLIGHTS),
        ("clouds", 0),
        ("delay", 0),
    ]


@pytest.mark.parametrize("header", [False, True])
async def test_columns_that_nobody_named_are_found(running: Running, header: bool) -> None:
    """A column that holds a stored field under another name is found, a coincidence is not."""
    table = table_of(
        minutes=(DataType.FLOAT32, [float(number) for number in range(FLIGHTS)]),
        weekday=(DataType.INT32, [5] * FLIGHTS),
        shuffled=(DataType.FLOAT64, [float(number * 7 % FLIGHTS) for number in range(FLIGHTS)]),
        note=(DataType.STRING, ["x"] * FLIGHTS),
    )
    found = await measure(running, table, header=header, find_columns=True)
    (minutes,) = found.findings
    assert (minutes.column, minutes.view, minutes.field) == ("minutes", "landed", "delay")
    assert (minutes.origin, minutes.leaked, minutes.held_share) == (
        pb.LEAK_ORIGIN_FOUND,
        FLIGHTS,
        1,
    )
    assert {"weekday", "shuffled", "note"} <= set(found.unjudged_columns)
    assert not {"flight", "event_time"} & set(found.unjudged_columns)


BAD: list[tuple[dict[str, Any], errors.Reason, str]] = [
    ({}, errors.Reason.MISSING_FIELD, "feature_set"),
    ({"columns": [claim("x", "sky", "clouds")]}, errors.Reason.MISSING_FIELD, "columns[0].column"),
    ({"columns": [claim("flight", "sky", "x")]}, errors.Reason.UNKNOWN_FIELD, "columns[0].field"),
    ({"find_columns": True, "time_column": "x"}, errors.Reason.MISSING_FIELD, "table.x"),
]


async def test_bad_question_is_named(running: Running) -> None:
    """A question that makes no sense is refused with its path."""
    for options, reason, field in BAD:
        error = await testing.error_of(measure(running, table_of(), **options))
        assert (error.reason, error.violations[0].field) == (reason, field)


async def test_empty_stream_is_refused(running: Running) -> None:
    """A table that never came is no table without leaks."""

    async def nothing() -> AsyncIterator[pb.MeasureLeaksRequest]:
        empty: list[pb.MeasureLeaksRequest] = []
        for each in empty:
            yield each

    error = await testing.error_of(running.audit.MeasureLeaks(nothing()))
    assert error.reason is errors.Reason.MISSING_FIELD
