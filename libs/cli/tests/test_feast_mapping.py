from datetime import timedelta
from typing import Any

import pytest

from setpoint_cli.feast import mapping
from setpoint_cli.feast import testing as feast
from setpoint_cli.feast.mapping import Fit
from setpoint_columns import DataType
from setpoint_features import Derived, Entity, Feature, RequestField

DRIVER = feast.entity("driver", "driver_id")
PLAIN = feast.view("trips", ["driver"], [feast.field("rate"), feast.field("count", "Int64")])


def mapped(key_types: dict[str, DataType] | None = None, **parts: Any) -> mapping.Mapped:
    parts.setdefault("entities", [DRIVER])
    return mapping.map_repository(feast.repository(**parts), "drivers", key_types or {})


def finding(found: mapping.Mapped, kind: str, name: str) -> mapping.Finding:
    [only] = [each for each in found.findings if (each.kind, each.name) == (kind, name)]
    return only


def reasons(found: mapping.Mapped, kind: str, name: str) -> str:
    return "; ".join(finding(found, kind, name).reasons)


def test_map_repository_exactly() -> None:
    """What both mean alike maps exactly, people's words included."""
    view = {**PLAIN, "description": "Of a day", "owner": "ops", "tags": {"team": "a"}}
    service = feast.service("late", [feast.taken("trips", ["count", "rate"])], owner="ml")
    found = mapped(views=[view], services=[service])
    assert {each.fit for each in found.findings} == {Fit.EXACT}
    made = found.definitions
    assert made.entities == [Entity("driver", {"driver_id": DataType.INT64})]
    [trips] = made.views
    assert (trips.name, trips.entity, trips.ttl, trips.boundary) == (
        "trips",
        made.entities[0],
        None,
        "inclusive",
    )
    assert (trips.description, trips.owner, trips.tags) == ("Of a day", "ops", {"team": "a"})
    assert {each.name: each.dtype for each in trips.fields} == {
        "rate": DataType.FLOAT32,
        "count": DataType.INT64,
    }
    [late] = made.feature_sets
    assert (late.name, late.owner) == ("late", "ml")
    assert late.features == [Feature("trips", "count"), Feature("trips", "rate")]


@pytest.mark.parametrize(
    ("kind", "dtype", "fit"),
    [
        ("Bool", DataType.BOOL, Fit.EXACT),
        ("Int32", DataType.INT32, Fit.EXACT),
        ("Float64", DataType.FLOAT64, Fit.EXACT),
        ("String", DataType.STRING, Fit.EXACT),
        ("UnixTimestamp", DataType.TIMESTAMP, Fit.APPROXIMATE),
        ("Uuid", DataType.STRING, Fit.APPROXIMATE),
        ("Json", DataType.STRING, Fit.APPROXIMATE),
        ("Decimal", DataType.STRING, Fit.APPROXIMATE),
        ("Bytes", None, Fit.NONE),
        ("Map", None, Fit.NONE),
        ("Array(Float32)", None, Fit.NONE),
        ("Set(String)", None, Fit.NONE),
        ("Struct({name: String})", None, Fit.NONE),
        ("Invalid", None, Fit.NONE),
    ],
)
def test_types(kind: str, dtype: DataType | None, fit: Fit) -> None:
    """A type has its counterpart, one that is near it with the reason, or none; the view goes on without."""
    view = feast.view("trips", ["driver"], [feast.field("value", kind), feast.field("rate")])
    found = mapped(views=[view])
    told = finding(found, "field", "trips.value")
    assert told.fit is fit
    assert bool(told.reasons) == (fit is not Fit.EXACT)
    fields = {each.name: each.dtype for each in found.definitions.views[0].fields}
    assert fields.get("value") == dtype
    assert finding(found, "view", "trips").fit is (Fit.APPROXIMATE if dtype is None else Fit.EXACT)


@pytest.mark.parametrize(
    ("ttl", "expected", "told"),
    [
        (None, None, ""),
        (0, None, ""),
        (86_400_000_000, timedelta(days=1), "older than its TTL"),
        (500_000, timedelta(microseconds=500_000), "whole seconds"),
        (1, timedelta(microseconds=1), "whole seconds"),
    ],
)
def test_ttl(ttl: int | None, expected: timedelta | None, told: str) -> None:
    """None and 0 are for ever on both sides; another one is kept to the microsecond, and honoured online."""
    found = mapped(views=[{**PLAIN, "ttl": ttl}])
    assert found.definitions.views[0].ttl == expected
    assert told in reasons(found, "view", "trips")
    assert finding(found, "view", "trips").fit is (Fit.APPROXIMATE if told else Fit.EXACT)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"source": feast.source(created="")}, "no time of creation"),
        ({"transformed": True}, "computed before they are written"),
        ({"derived_from": ["other"]}, "computed before they are written"),
        (
            {
                "aggregations": [
                    {"function": "sum", "column": "fare", "window": 1, "slide": 1, "name": ""}
                ]
            },
            "sum(fare)",
        ),
        ({"online": False}, "kept online"),
        ({"enabled": False}, "disabled"),
        ({"tags": {"a b": "x"}}, "without its tags 'a b'"),
        ({"description": "x" * 5000}, "description is cut"),
        ({"name": "Trips of Day"}, "it is called trips_of_day"),
    ],
)
def test_view_approximately(changed: dict[str, Any], told: str) -> None:
    """A view that would behave otherwise here says in what."""
    view = {**PLAIN, **changed}
    found = mapped(views=[view])
    assert finding(found, "view", view["name"]).fit is Fit.APPROXIMATE
    assert told in reasons(found, "view", view["name"])
    assert len(found.definitions.views) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ttl": -1}, "negative"),
        ({"fields": [feast.field("a", "Map")]}, "none of its fields"),
        ({"fields": [], "failure": "FileNotFoundError: x.parquet"}, "x.parquet"),
        ({"entities": ["rider"]}, "its entity rider does not map"),
    ],
)
def test_view_not_at_all(changed: dict[str, Any], told: str) -> None:
    """What no view can be made of is told with the reason, also to the services that take from it."""
    service = feast.service("late", [feast.taken("trips", ["rate"])])
    found = mapped(views=[{**PLAIN, **changed}], services=[service])
    assert finding(found, "view", "trips").fit is Fit.NONE
    assert told in reasons(found, "view", "trips")
    assert "without trips" in reasons(found, "feature service", "late")
    assert not found.definitions.views
    assert not found.definitions.feature_sets


@pytest.mark.parametrize("name", ["event_time", "created_time", "driver_id", "a b", "ä" * 70])
def test_field_names_that_are_taken(name: str) -> None:
    """A field whose name cannot be kept gets another one, which references follow."""
    view = feast.view("trips", ["driver"], [feast.field(name)])
    found = mapped(views=[view], services=[feast.service("late", [feast.taken("trips", [name])])])
    [field] = found.definitions.views[0].fields
    assert field.name != name
    assert finding(found, "field", f"trips.{name}").fit is Fit.APPROXIMATE
    assert found.definitions.feature_sets[0].features == [Feature("trips", field.name)]


def test_field_names_stay_apart() -> None:
    """Names that would become one stay two."""
    view = feast.view(
        "trips", ["driver"], [feast.field("a b"), feast.field("a_b"), feast.field("a/b")]
    )
    names = [each.name for each in mapped(views=[view]).definitions.views[0].fields]
    assert len(set(names)) == 3


def test_key_type_comes_from_the_views() -> None:
    """An entity without a type has that of its views' columns; two widths of integers are one key."""
    untyped = feast.entity("driver", "driver_id", "UNKNOWN")
    views = [
        {**PLAIN, "name": f"trips_{kind}", "keys": [feast.field("driver_id", kind)]}
        for kind in ("Int32", "Int64")
    ]
    found = mapped(entities=[untyped], views=views)
    assert found.definitions.entities[0].keys == {"driver_id": DataType.INT64}
    assert finding(found, "entity", "driver").fit is Fit.EXACT


def test_key_type_is_asked_for() -> None:
    """A key without a type anywhere is told with what to do, and a given type is taken."""
    untyped = feast.entity("driver", "driver_id", "UNKNOWN")
    found = mapped(entities=[untyped], views=[{**PLAIN, "failure": "no such file"}])
    told = reasons(found, "entity", "driver")
    assert "cannot be told (no such file): give --key-type driver_id=int64" in told
    assert not found.definitions.views
    found = mapped({"driver_id": DataType.STRING}, entities=[untyped], views=[PLAIN])
    assert found.definitions.entities[0].keys == {"driver_id": DataType.STRING}
    assert len(found.definitions.views) == 1


@pytest.mark.parametrize(
    ("told", "keys"),
    [
        ("has several types: Int64, String", ["Int64", "String"]),
        ("driver_id is of type Bool", ["Bool"]),
        ("a key is an integer or a text", ["Bytes"]),
    ],
)
def test_keys_that_cannot_be(told: str, keys: list[str]) -> None:
    """Keys are integers or texts, of one type."""
    untyped = feast.entity("driver", "driver_id", "UNKNOWN")
    views = [{**PLAIN, "name": kind, "keys": [feast.field("driver_id", kind)]} for kind in keys]
    found = mapped(entities=[untyped], views=views)
    assert told in reasons(found, "entity", "driver")
    assert not found.definitions.entities


def test_views_of_several_entities() -> None:
    """A view of two entities is of one with both keys, the same for each such view; one of none is global."""
    rider = feast.entity("rider", "rider_id", "STRING")
    views = [
        feast.view("pairs", ["driver", "rider"], [feast.field("a")]),
        feast.view("others", ["rider", "driver"], [feast.field("a")]),
        feast.view("world", [], [feast.field("a")]),
    ]
    found = mapped(entities=[DRIVER, rider], views=views)
    made = {each.name: each for each in found.definitions.entities}
    assert made["driver-rider"].keys == {"driver_id": DataType.INT64, "rider_id": DataType.STRING}
    assert made["global"].keys == {}
    assert [getattr(each.entity, "name", "") for each in found.definitions.views] == [
        "driver-rider",
        "driver-rider",
        "global",
    ]


def test_service_joins_a_view_twice() -> None:
    """One view under two names and keys becomes columns with the names that Feast would give them."""
    location = feast.entity("location", "location_id")
    view = feast.view("weather", ["location"], [feast.field("wind")])
    services = [
        feast.service(
            "flights",
            [
                feast.taken("weather", ["wind"], alias=alias, keys={"location_id": f"{alias}_id"})
                for alias in ("origin", "destination")
            ],
        )
    ]
    found = mapped(entities=[location], views=[view], services=services)
    assert found.definitions.feature_sets[0].features == [
        Feature("weather", "wind", "origin__wind", {"location_id": "origin_id"}),
        Feature("weather", "wind", "destination__wind", {"location_id": "destination_id"}),
    ]
    assert finding(found, "feature service", "flights").fit is Fit.EXACT


def test_service_by_references() -> None:
    """References as text are read; what they pin or miss is told."""
    service = feast.service("late", [], references=["trips@v2:rate", "trips:nothing", "other"])
    found = mapped(views=[PLAIN], services=[service])
    assert found.definitions.feature_sets[0].features == [Feature("trips", "rate")]
    told = reasons(found, "feature service", "late")
    for part in ("not as version 2", "without nothing of trips", "without other"):
        assert part in told


SUM = 'def f(inputs):\n    return {"total": inputs["rate"] + inputs["extra"], "twice": inputs["rate"] * 2}'
COMPUTED = feast.on_demand(
    "sums",
    SUM,
    [feast.field("total", "Float64"), feast.field("twice", "Float64")],
    views=[feast.taken("trips", ["rate", "count"])],
    request=[feast.field("extra", "Float64")],
)


def test_on_demand_becomes_transformations() -> None:
    """A service with computed columns gets their functions, the request fields and features that they read."""
    service = feast.service(
        "late", [feast.taken("trips", ["count"]), feast.taken("sums", ["total"])]
    )
    found = mapped(views=[PLAIN], on_demand=[COMPUTED], services=[service])
    assert [(each.name, each.expression) for each in found.functions] == [
        ("total", "rate + extra"),
        ("twice", "rate * 2"),
    ]
    [late] = found.definitions.feature_sets
    assert late.features == [Feature("trips", "count"), Feature("trips", "rate")]
    assert late.request_fields == [RequestField("extra", DataType.FLOAT64)]
    assert late.derived == [Derived("total", "drivers:total")]
    assert "it holds rate as well" in reasons(found, "feature service", "late")
    assert finding(found, "on-demand view", "sums").fit is Fit.APPROXIMATE


def test_on_demand_reads_renamed_columns() -> None:
    """A function reads the columns under the names that they have in its set."""
    other = feast.view("fares", ["driver"], [feast.field("rate")])
    service = feast.service(
        "late",
        [
            feast.taken("trips", ["rate"]),
            feast.taken("fares", ["rate"]),
            feast.taken("sums", ["twice"]),
        ],
    )
    found = mapped(views=[PLAIN, other], on_demand=[COMPUTED], services=[service])
    [late] = found.definitions.feature_sets
    assert [each.alias for each in late.features] == ["trips__rate", "fares__rate"]
    assert late.derived == [Derived("twice", "drivers:twice", {"rate": "trips__rate"})]
    assert not late.request_fields


def test_on_demand_shares_functions() -> None:
    """Two views that compute the same have one function, and two that do not have two."""
    same = {**COMPUTED, "name": "same"}
    other = {**COMPUTED, "name": "other", "source": SUM.replace("+", "-")}
    found = mapped(views=[PLAIN], on_demand=[COMPUTED, same, other])
    assert [(each.name, each.expression) for each in found.functions] == [
        ("total", "rate + extra"),
        ("twice", "rate * 2"),
        ("total_2", "rate - extra"),
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"source": "def f(inputs):\n    return model(inputs)"}, "model(inputs)"),
        ({"mode": "substrait"}, "substrait"),
        ({"aggregations": [{"function": "sum"}]}, "aggregates"),
        ({"fields": [feast.field("total", "Array(Int64)")]}, "no type here"),
        ({"views": []}, "its input rate does not map"),
        ({"request": [feast.field("extra", "Map")]}, "its input extra does not map"),
    ],
)
def test_on_demand_not_at_all(changed: dict[str, Any], told: str) -> None:
    """A function that is not plain, or reads or makes what there is not, is left out of its services."""
    service = feast.service(
        "late", [feast.taken("trips", ["count"]), feast.taken("sums", ["total"])]
    )
    found = mapped(views=[PLAIN], on_demand=[{**COMPUTED, **changed}], services=[service])
    assert told in reasons(found, "on-demand view", "sums")
    assert finding(found, "on-demand view", "sums").fit is Fit.NONE
    assert found.definitions.feature_sets[0].features == [Feature("trips", "count")]
    assert "without sums" in reasons(found, "feature service", "late")


def test_on_demand_whose_request_field_is_a_feature() -> None:
    """A function would read the feature of the same name: rather none than a wrong one."""
    extra = feast.view("extras", ["driver"], [feast.field("extra")])
    service = feast.service(
        "late", [feast.taken("extras", ["extra"]), feast.taken("sums", ["total"])]
    )
    found = mapped(views=[PLAIN, extra], on_demand=[COMPUTED], services=[service])
    assert not found.definitions.feature_sets[0].derived
    assert "without total" in reasons(found, "feature service", "late")


def test_sources_say_how_rows_are_written() -> None:
    """Sources, labels and permissions have no counterpart, and each says what stands in its place."""
    found = mapped(
        sources=[
            feast.source("stats", columns={"r": "rate"}),
            feast.source("asked", kind="RequestSource"),
        ],
        labels=["good"],
        permissions=["read"],
    )
    assert "at as event_time, seen as created_time, r as rate" in reasons(found, "source", "stats")
    assert finding(found, "source", "asked").fit is Fit.EXACT
    assert finding(found, "label view", "good").fit is Fit.NONE
    assert finding(found, "permission", "read").fit is Fit.NONE
    assert found.count(Fit.NONE) == 3
