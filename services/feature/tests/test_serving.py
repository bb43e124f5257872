import pytest

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors

FRESH, STALE, MISSING, DEFAULT = 1, 2, 3, 4
NONE = -1


@pytest.fixture
async def weather(client: Client) -> Client:
    """A view of airports with every kind of field, and a set that joins it twice."""
    await client.entity("airport", airport=DataType.STRING)
    await client.view(
        "weather",
        "airport",
        [
            ("wind", DataType.FLOAT64, 1.5),
            ("rain", DataType.BOOL),
            ("sky", DataType.STRING, "clear"),
        ],
        ttl_microseconds=100,
    )
    await client.feature_set(
        "flights",
        [
            testing.reference("weather", "sky", "to_sky", airport="dest"),
            testing.reference("weather", "wind", "from_wind", airport="origin"),
            testing.reference("weather", "rain", "from_rain", airport="origin"),
            testing.reference("weather", "wind", "to_wind", airport="dest"),
        ],
    )
    await client.write(
        "weather",
        Columns.from_dict(
            {
                "airport": (DataType.STRING, ["JFK", "LAX", "OLD", "NUL"]),
                "event_time": (DataType.TIMESTAMP, [NOW - 10, NOW - 100, NOW - 101, NOW]),
                "created_time": (DataType.TIMESTAMP, [NOW - 10, NOW - 100, NOW - 101, NOW]),
                "wind": (DataType.FLOAT64, [10.0, 20.0, 30.0, None]),
                "rain": (DataType.BOOL, [True, False, True, None]),
                "sky": (DataType.STRING, ["fog", "wind", "rain", None]),
            }
        ),
    )
    return client


def trips(*pairs: tuple[str | None, str | None]) -> Columns:
    return Columns.from_dict(
        {
            "origin": (DataType.STRING, [pair[0] for pair in pairs]),
            "dest": (DataType.STRING, [pair[1] for pair in pairs]),
        }
    )


async def test_read_shares_event_times(weather: Client) -> None:
    """Asked for once, event times are sent once for the columns that have them, and are the same."""
    request = pb.GetOnlineFeaturesRequest(
        feature_set=reference_pb2.FeatureSetReference(name="flights"),
        entities=proto.to_proto(trips(("JFK", "LAX"), ("OLD", "JFK"), ("???", None))),
    )
    plain = await weather.stub.GetOnlineFeatures(request, timeout=5)
    request.shared_event_times = True
    shared = await weather.stub.GetOnlineFeatures(request, timeout=5)

    assert len(plain.event_times) == 4
    assert not plain.event_time_positions
    assert len(shared.event_times) == 2
    positions = shared.event_time_positions
    assert [shared.event_times[each] for each in positions] == list(plain.event_times)


async def test_read_values_statuses_and_times(weather: Client) -> None:
    """Every row gets the value, status and event time of each feature, in the set's order."""
    found = await weather.online(
        "flights", trips(("JFK", "LAX"), ("OLD", "JFK"), ("???", None), ("NUL", "NUL"))
    )

    assert list(found.values) == ["to_sky", "from_wind", "from_rain", "to_wind"]
    assert found.values["to_sky"] == ["wind", "fog", "clear", None]
    assert found.values["from_wind"] == [10.0, 1.5, 1.5, None]
    assert found.values["from_rain"] == [True, None, None, None]
    assert found.values["to_wind"] == [20.0, 10.0, 1.5, None]
    assert found.statuses == [
        [FRESH, FRESH, DEFAULT, FRESH],
        [FRESH, STALE, DEFAULT, FRESH],
        [FRESH, STALE, MISSING, FRESH],
        [FRESH, FRESH, DEFAULT, FRESH],
    ]
    assert found.event_times[1] == [NOW - 10, NOW - 101, NONE, NOW]


async def test_read_judges_at_each_rows_time(weather: Client) -> None:
    """Age and boundary are judged at as_of; a value of the future is never served."""
    trip = trips(("JFK", "JFK"), ("JFK", "JFK"), ("JFK", "JFK"), ("JFK", "JFK"))

    found = await weather.online("flights", trip, NOW - 11, NOW - 10, NOW + 90, NOW + 91)

    assert found.values["from_wind"] == [1.5, 10.0, 10.0, 1.5]
    assert found.statuses[1] == [DEFAULT, FRESH, FRESH, STALE]
    assert found.event_times[1] == [NONE, NOW - 10, NOW - 10, NOW - 10]


async def test_read_one_time_for_all_rows(weather: Client) -> None:
    """A single time stands for all rows."""
    found = await weather.online("flights", trips(("JFK", "LAX"), ("JFK", "LAX")), NOW + 91)

    assert found.statuses[1] == [STALE, STALE]


async def test_read_value_that_arrived_later(client: Client) -> None:
    """What had not arrived at as_of is not served, although its event time lies before."""
    await client.entity("global")
    await client.view("rate", "global", [("rate", DataType.FLOAT64)])
    await client.feature_set("rates", [testing.reference("rate", "rate")])
    await client.write(
        "rate",
        Columns.from_dict(
            {"event_time": (DataType.TIMESTAMP, [NOW - 50]), "rate": (DataType.FLOAT64, [2.0])}
        ),
    )
    rows = Columns.from_dict({"x": (DataType.INT64, [1, 2])})

    found = await client.online("rates", rows, NOW - 1, NOW)

    assert found.values["rate"] == [None, 2.0]
    assert found.statuses == [[MISSING, FRESH]]


async def test_read_exclusive_boundary(client: Client) -> None:
    """An exclusive view does not show a value at its own time."""
    await client.entity("plane", plane=DataType.INT64)
    await client.view(
        "seen", "plane", [("n", DataType.INT64)], boundary=definition_pb2.BOUNDARY_EXCLUSIVE
    )
    await client.feature_set("planes", [testing.reference("seen", "n")])
    rows: testing.Table = {
        "plane": (DataType.INT64, [1]),
        "event_time": (DataType.TIMESTAMP, [NOW]),
    }
    await client.write("seen", Columns.from_dict({**rows, "n": (DataType.INT64, [5])}))
    planes = Columns.from_dict({"plane": (DataType.INT32, [1, 1])})

    found = await client.online("planes", planes, NOW, NOW + 1)

    assert found.values["n"] == [None, 5]


async def test_read_composite_keys(client: Client) -> None:
    """Parts of a key do not run together, and the order of columns does not matter."""
    await client.entity("leg", origin=DataType.STRING, number=DataType.INT32)
    await client.view("legs", "leg", [("n", DataType.INT64)])
    await client.feature_set("legs", [testing.reference("legs", "n")])
    rows: testing.Table = {
        "number": (DataType.INT64, [1, 1, 11]),
        "origin": (DataType.STRING, ["A", "A1", "A"]),
        "event_time": (DataType.TIMESTAMP, [NOW] * 3),
    }
    await client.write("legs", Columns.from_dict({**rows, "n": (DataType.INT64, [1, 2, 3])}))
    asked: testing.Table = {
        "origin": (DataType.STRING, ["A", "A", "A1", "A1"]),
        "number": (DataType.INT32, [11, 1, 1, 11]),
    }

    found = await client.online("legs", Columns.from_dict(asked))

    assert found.values["n"] == [3, 1, 2, None]


async def test_read_no_rows(weather: Client) -> None:
    """No entities is a question with an empty answer."""
    found = await weather.online("flights", trips())

    assert found.values == {"to_sky": [], "from_wind": [], "from_rain": [], "to_wind": []}


async def test_read_set_of_request_fields_alone(client: Client) -> None:
    """A set without features is answered with its rows and no columns."""
    await client.feature_set("plain", [], request_fields=[testing.spec("x", DataType.INT64)])

    found = await client.online("plain", Columns.from_dict({"x": (DataType.INT64, [1, 2])}))

    assert found.values == {}


async def test_read_ten_thousand_rows(weather: Client) -> None:
    """The largest question is answered whole, in order."""
    names = ["JFK", "LAX", "???"]
    asked = [names[row % 3] for row in range(10_000)]

    found = await weather.online("flights", trips(*((name, name) for name in asked)))

    assert found.values["from_wind"] == [
        {"JFK": 10.0, "LAX": 20.0}.get(name, 1.5) for name in asked
    ]


@pytest.mark.parametrize(
    ("entities", "times", "reason", "field"),
    [
        (
            Columns.from_dict({"origin": (DataType.STRING, ["JFK"])}),
            (),
            errors.Reason.ENTITY_KEY_MISSING,
            "entities.dest",
        ),
        (
            Columns.from_dict(
                {"origin": (DataType.INT64, [1]), "dest": (DataType.STRING, ["JFK"])}
            ),
            (),
            errors.Reason.WRONG_TYPE,
            "entities.origin",
        ),
        (trips(("x" * 2_000, "JFK")), (), errors.Reason.TOO_LARGE, "entities.origin[0]"),
        (trips(*[("a", "b")] * 3), (1, 2), errors.Reason.INVALID_FIELD, "as_of_times"),
        (trips(*[("a", "b")] * 10_001), (), errors.Reason.TOO_LARGE, "entities.rows"),
    ],
)
async def test_read_bad_question_is_named(
    weather: Client, entities: Columns, times: tuple[int, ...], reason: errors.Reason, field: str
) -> None:
    """A bad question is refused with the path of what is wrong, and the service goes on."""
    error = await testing.error_of(weather.online("flights", entities, *times))

    assert isinstance(error, errors.InvalidArgumentError)
    assert (error.reason, error.violations[0].field) == (reason, field)
    assert (await weather.online("flights", trips(("JFK", "LAX")))).values["from_wind"] == [10.0]


async def test_read_answer_that_would_not_fit(start: Start) -> None:
    """Rows whose answer would exceed a message are refused in advance, with the limit."""
    async with start(answer_bytes=2_000) as running:
        await running.client.entity("plane", plane=DataType.INT64)
        await running.client.view("ages", "plane", [("age", DataType.INT64)])
        await running.client.feature_set("planes", [testing.reference("ages", "age")])
        planes = Columns.from_dict({"plane": (DataType.INT64, list(range(200)))})

        error = await testing.error_of(running.client.online("planes", planes))

    assert error.reason is errors.Reason.TOO_LARGE
    assert "at most 111" in error.message


async def test_read_unknown_set(client: Client) -> None:
    """A feature set or a version that does not exist is not found."""
    for version in ("", "0000"):
        error = await testing.error_of(client.online("nothing", trips(), version=version))

        assert isinstance(error, errors.NotFoundError)
        assert error.reason is errors.Reason.FEATURE_SET_NOT_FOUND


async def test_read_tells_the_exact_version(weather: Client) -> None:
    """An answer for "the latest" names what was read."""
    response = await weather.stub.GetOnlineFeatures(
        pb.GetOnlineFeaturesRequest(
            feature_set=reference_pb2.FeatureSetReference(name="flights"),
            entities=proto.to_proto(trips(("JFK", "LAX"))),
        )
    )
    asked = reference_pb2.FeatureSetReference(name="flights")
    found = await weather.stub.GetFeatureSet(pb.GetFeatureSetRequest(feature_set=asked))

    assert response.feature_set.version == found.feature_set.version
