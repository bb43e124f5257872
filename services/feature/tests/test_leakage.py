import pytest

from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client
from setpoint_runtime import errors

HOUR = 3_600_000_000


@pytest.fixture
async def flights(client: Client) -> Client:
    """Outcomes that become known at landing, and weather that is known before departure."""
    await client.entity("flight", flight=DataType.INT64)
    await client.entity("airport", airport=DataType.STRING)
    await client.view("outcomes", "flight", [("dep_delay", DataType.FLOAT64)])
    await client.view("weather", "airport", [("wind", DataType.FLOAT64)])
    landings: testing.Table = {
        "flight": (DataType.INT64, [1, 2, 3]),
        "event_time": (DataType.TIMESTAMP, [NOW - HOUR, NOW - 2 * HOUR, NOW - HOUR]),
        "created_time": (DataType.TIMESTAMP, [NOW - HOUR, NOW - 2 * HOUR, NOW - HOUR]),
        "dep_delay": (DataType.FLOAT64, [12.0, -3.0, None]),
    }
    await client.write("outcomes", Columns.from_dict(landings))
    wind: testing.Table = {
        "airport": (DataType.STRING, ["JFK"]),
        "event_time": (DataType.TIMESTAMP, [NOW - 9 * HOUR]),
        "created_time": (DataType.TIMESTAMP, [NOW - 9 * HOUR]),
        "wind": (DataType.FLOAT64, [7.0]),
    }
    await client.write("weather", Columns.from_dict(wind))
    return client


TABLE = Columns.from_dict(
    {
        "id": (DataType.INT64, [1, 2, 3, 4]),
        "origin": (DataType.STRING, ["JFK"] * 4),
        "departure": (DataType.TIMESTAMP, [NOW - 5 * HOUR] * 4),
        "dep_delay": (DataType.FLOAT32, [12.0, -3.0, 5.0, None]),
        "wind": (DataType.FLOAT64, [7.0, 7.0, 7.0, 7.0]),
    }
)
DELAY = pb.LeakageColumn(
    column="dep_delay", view="outcomes", field="dep_delay", key_columns={"flight": "id"}
)
WIND = pb.LeakageColumn(
    column="wind", view="weather", field="wind", key_columns={"airport": "origin"}
)


async def test_check_catches_what_lands_later(flights: Client) -> None:
    """The departure delay is known only after the flight; as a column of its row it is a leak."""
    response = await flights.stub.CheckLeakage(
        pb.CheckLeakageRequest(
            columns=[DELAY, WIND], table=proto.to_proto(TABLE), time_column="departure"
        )
    )

    leak, clean = response.findings
    assert (leak.column, leak.values, leak.leaked, list(leak.rows)) == ("dep_delay", 3, 2, [0, 1])
    assert "3 h to 4 h" in leak.message
    assert (clean.column, clean.values, clean.leaked) == ("wind", 4, 0)


@pytest.mark.parametrize(
    ("column", "reason", "field"),
    [
        (
            pb.LeakageColumn(
                column="x", view="weather", field="wind", key_columns=WIND.key_columns
            ),
            errors.Reason.MISSING_FIELD,
            "columns[0].column",
        ),
        (
            pb.LeakageColumn(column="wind", view="weather", field="x"),
            errors.Reason.UNKNOWN_FIELD,
            "columns[0].field",
        ),
        (
            pb.LeakageColumn(column="wind", view="weather", field="wind"),
            errors.Reason.ENTITY_KEY_MISSING,
            "table.airport",
        ),
        (
            pb.LeakageColumn(
                column="wind", view="weather", field="wind", key_columns={"x": "origin"}
            ),
            errors.Reason.UNKNOWN_FIELD,
            "columns[0].key_columns",
        ),
        (
            pb.LeakageColumn(
                column="origin", view="weather", field="wind", key_columns=WIND.key_columns
            ),
            errors.Reason.WRONG_TYPE,
            "origin",
        ),
    ],
)
async def test_check_bad_question_is_named(
    flights: Client, column: pb.LeakageColumn, reason: errors.Reason, field: str
) -> None:
    """A claim that makes no sense is refused with its path."""
    error = await testing.error_of(
        flights.stub.CheckLeakage(
            pb.CheckLeakageRequest(
                columns=[column], table=proto.to_proto(TABLE), time_column="departure"
            )
        )
    )

    assert (error.reason, error.violations[0].field) == (reason, field)


async def test_check_nothing_asked(flights: Client) -> None:
    """A check of no column would look like a clean one."""
    error = await testing.error_of(flights.stub.CheckLeakage(pb.CheckLeakageRequest()))

    assert error.violations[0].field == "columns"
