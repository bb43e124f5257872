from datetime import timedelta
from pathlib import Path

import pytest

from setpoint_columns import DataType
from setpoint_features import definitions, loading, messages
from setpoint_runtime import errors

YAML = """
entities:
  - name: carrier
    keys: {carrier: string}
    owner: ops
views:
  - name: delays
    entity: carrier
    ttl: 1d12h
    boundary: exclusive
    tags: {tier: 1}
    fields:
      - {name: late, type: float64, default: 0.2, sensitive: true, finite: true}
      - {name: count, type: int64, default: 0, tags: {unit: flights}}
  - name: windows
    entity: carrier
    source: delays
    group_by: {carrier: count}
    aggregates:
      - {name: many, function: count, window: 1d, hop: 1h, condition: {field: count, equals: 3}}
      - {name: latest, function: last, of: late, window: 7d, n: 2, default: 0.5}
feature_sets:
  - name: flights
    features:
      - delays.late
      - {view: delays, field: count, alias: flights_there, keys: {carrier: other}}
    request_fields:
      - {name: distance, type: float64, description: Miles}
    transformations:
      - {name: double, function: "some.module:double", inputs: {value: distance}}
"""
PYTHON = """
from datetime import timedelta

from setpoint_features import (
    Aggregate, AggregateView, DataType, Derived, Entity, FeatureSet, FeatureView, Field, RequestField, transformation
)

carrier = Entity("carrier", {"carrier": DataType.STRING}, owner="ops")
_views = [
    FeatureView(
        "delays",
        carrier,
        [
            Field("late", DataType.FLOAT64, default=0.2, sensitive=True, finite=True),
            Field("count", DataType.INT64, default=0, tags={"unit": "flights"}),
        ],
        ttl=timedelta(hours=36),
        boundary="exclusive",
        tags={"tier": "1"},
    ),
    AggregateView(
        "windows",
        "carrier",
        "delays",
        [
            Aggregate("many", "count", timedelta(days=1), condition=("count", 3), hop=timedelta(hours=1)),
            Aggregate("latest", "last", timedelta(days=7), "late", n=2, default=0.5),
        ],
        {"carrier": "count"},
    ),
]


@transformation(DataType.FLOAT64)
def double(value):
    return value * 2


flights = FeatureSet(
    "flights",
    [_views[0]["late"], _views[0]["count"].named("flights_there", carrier="other")],
    [RequestField("distance", DataType.FLOAT64, "Miles")],
    [Derived("double", double, {"value": "distance"})],
)
again = flights
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_load_reads_yaml(tmp_path: Path) -> None:
    """A file becomes the objects that one would write in Python, each with its line."""
    found = loading.load(str(write(tmp_path, "delays.yaml", YAML)))

    (entity,), (view,), (flights,) = found.entities, found.views, found.feature_sets
    assert entity == definitions.Entity("carrier", {"carrier": DataType.STRING}, owner="ops")
    assert view.ttl == timedelta(hours=36)
    assert view.fields[1].tags == {"unit": "flights"}
    assert view.tags == {"tier": "1"}
    assert flights.features[1].keys == {"carrier": "other"}
    assert flights.derived[0].function == "some.module:double"
    assert (view.where.line, view.fields[1].where.line) == (7, 14)


def test_python_and_yaml_say_the_same(tmp_path: Path) -> None:
    """Both forms make one message, but for the function, whose code Python knows and YAML does not."""
    yaml = messages.to_message(loading.load(str(write(tmp_path, "delays.yml", YAML))))
    python = messages.to_message(loading.load(str(write(tmp_path, "made_up_delays.py", PYTHON))))

    (derived,) = python.feature_sets[0].transformations
    assert derived.function == "made_up_delays:double"
    assert len(derived.source_hash) == 16
    for each in (yaml, python):
        each.feature_sets[0].transformations[0].ClearField("function")
        each.feature_sets[0].transformations[0].ClearField("source_hash")
    assert yaml == python


def test_load_finds_a_package_and_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package counts with all modules in it, by folder or by name, and each object once."""
    write(tmp_path, "made_up_features/__init__.py", "")
    write(tmp_path, "made_up_features/delays.py", PYTHON)
    write(tmp_path, "made_up_features/sets.py", "from made_up_features.delays import flights\n")
    write(tmp_path, "made_up_features/more.yaml", "entities: [{name: more}]")
    monkeypatch.chdir(tmp_path)

    by_folder = loading.load("made_up_features")
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.syspath_prepend(tmp_path)
    by_name = loading.load("made_up_features.delays")

    assert [each.name for each in by_folder.entities] == ["more", "carrier"]
    assert (len(by_folder), len(by_name)) == (5, 4)
    assert by_name.views[0].where.line == 10


@pytest.mark.parametrize(
    ("old", "new", "place", "told"),
    [
        (
            "type: float64, default",
            "type: flot, default",
            "13: views[0].fields[0].type",
            "must be one of bool",
        ),
        ("    entity: carrier\n", "", "7: views[0]", "must have entity"),
        ("ttl: 1d12h", "ttl: 12", "9: views[0].ttl", "must be a length of time"),
        ("ttl: 1d12h", "tll: 1d12h", "9: views[0].tll", "must be one of name"),
        (
            "boundary: exclusive",
            "boundary: both",
            "10: views[0].boundary",
            "inclusive or exclusive",
        ),
        ("name: carrier\n", "name: no\n", "3: entities[0].name", "put it in quotes"),
        ("- delays.late", "- delays", "25: feature_sets[0].features[0]", "must be view.field"),
        ("sensitive: true", "sensitive: 1", "13: views[0].fields[0].sensitive", "true or false"),
        ("owner: ops", "owner: ops\n    owner: me", "6: entities[0].owner", "only once"),
        ("keys: {carrier: string}", "keys: [a]", "4: entities[0].keys", "must be a mapping"),
        ("    fields:\n", "    fields: {\n", "", "must be YAML"),
    ],
)
def test_load_names_what_is_wrong(
    tmp_path: Path, old: str, new: str, place: str, told: str
) -> None:
    """A mistake is told by file, line, path, value and rule."""
    text = YAML.replace(old, new, 1)
    assert text != YAML
    path = write(tmp_path, "delays.yaml", text)

    with pytest.raises(errors.InvalidArgumentError) as caught:
        loading.load(str(path))

    (violation,) = caught.value.violations
    assert violation.field.startswith(f"{path}:{place}")
    assert told in violation.description


@pytest.mark.parametrize("target", ["nowhere/at/all", "empty.yaml", "text.txt", "no such thing"])
def test_load_of_nothing_is_refused(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place without definitions is a mistake, not an empty plan."""
    write(tmp_path, "empty.yaml", "{}")
    write(tmp_path, "text.txt", "")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(errors.InvalidArgumentError) as caught:
        loading.load(target)

    assert caught.value.violations[0].field == "PATH"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("1w2d", timedelta(days=9)),
        ("1.5h", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("-1h", timedelta(hours=-1)),
    ],
)
def test_load_reads_lengths_of_time(tmp_path: Path, written: str, meant: timedelta) -> None:
    """Lengths of time have a unit, so that nobody takes seconds for hours; the service judges the sign."""
    path = write(tmp_path, "delays.yaml", YAML.replace("1d12h", written))

    assert loading.load(str(path)).views[0].ttl == meant


def test_aggregate_view_gives_its_columns_as_features() -> None:
    """A field over the latest n events is n columns."""
    last = definitions.Aggregate("latest", "last", timedelta(1), "late", n=2)
    view = definitions.AggregateView("v", "e", "s", [last])

    assert view["latest_2"] == definitions.Feature("v", "latest_2")
    for name in ("latest", "latest_3"):
        with pytest.raises(KeyError):
            view[name]


def test_located_names_file_and_line(tmp_path: Path) -> None:
    """What the service says about a place in the message is told by file and line."""
    path = write(tmp_path, "delays.yaml", YAML)
    found = loading.load(str(path))
    violations = [
        errors.FieldViolation(field, "must not")
        for field in (
            "definitions.views[0].fields[1].default_value",
            "definitions.views[0].ttl_microseconds",
            "definitions.feature_sets[0].transformations[0].inputs[value]",
            "definitions.views[1].aggregation.fields[1].n",
            "definitions.entities[0].keys[0].name",
            "reason",
        )
    ]

    assert [each.field for each in messages.located(found, violations)] == [
        f"{path}:14: view delays: fields[1].default_value",
        f"{path}:7: view delays: ttl_microseconds",
        f"{path}:30: feature set flights: transformations[0].inputs[value]",
        f"{path}:21: view windows: aggregation.fields[1].n",
        f"{path}:3: entity carrier: keys[0].name",
        "reason",
    ]


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        (definitions.Entity("e", {"k": "string"}), "entity e: keys[k]"),  # type: ignore[dict-item]  # the mistake.
        (definitions.FeatureView("v", "e", boundary="both"), "view v: boundary"),  # type: ignore[arg-type]  # the mistake.
        (definitions.FeatureView("v", "e", ttl=timedelta(0)), "view v: ttl"),
        (
            definitions.AggregateView(
                "v",
                "e",
                "s",
                [definitions.Aggregate("a", "median", timedelta(1))],  # type: ignore[arg-type]  # the mistake.
            ),
            "view v: fields[a].function",
        ),
        (
            definitions.FeatureView("v", "e", [definitions.Field("f", DataType.INT64, 1 << 70)]),
            "view v: fields[f].default: value",
        ),
        (
            definitions.FeatureSet("s", derived=[definitions.Derived("d", print)]),
            "feature set s: derived[d]: d.function",
        ),
    ],
)
def test_to_message_names_what_python_let_through(
    definition: definitions.Definition, field: str
) -> None:
    """What no message can hold is told by file, line and name before it is sent."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        messages.to_message(definitions.Definitions.of([definition]))

    (violation,) = caught.value.violations
    assert violation.field.startswith(f"{__file__}:")
    assert violation.field.endswith(f": {field}")


def test_load_refuses_files_that_python_takes_for_one(tmp_path: Path) -> None:
    """Of two files with one module name neither stands for the other; the second is named."""
    write(tmp_path, "first/made_up_twin.py", PYTHON)
    second = write(tmp_path, "second/made_up_twin.py", PYTHON.replace('"carrier"', '"airline"'))

    with pytest.raises(errors.InvalidArgumentError, match="name of its own") as caught:
        loading.load(str(tmp_path))

    assert str(second) in str(caught.value)


def test_load_refuses_a_file_with_the_name_of_a_part_of_python(tmp_path: Path) -> None:
    """What Python has imported already would be read in place of the file."""
    with pytest.raises(errors.InvalidArgumentError, match="name of its own"):
        loading.load(str(write(tmp_path, "typing.py", PYTHON)))


def test_load_reads_packages_inside_a_folder_by_their_names(tmp_path: Path) -> None:
    """Each package is one, with imports of its own; functions have the names that the service knows."""
    for name in ("made_up_north", "made_up_south"):
        write(tmp_path, f"{name}/__init__.py", "")
        text = PYTHON.replace("value * 2", "helpers.twice(value)").replace(
            "carrier", name.removeprefix("made_up_")
        )
        write(tmp_path, f"{name}/views.py", f"from . import helpers\n{text}")
        write(tmp_path, f"{name}/helpers.py", "def twice(value):\n    return value * 2\n")

    found = loading.load(str(tmp_path))

    assert [each.name for each in found.entities] == ["north", "south"]
    assert [each.derived[0].function_name for each in found.feature_sets] == [
        "made_up_north.views:double",
        "made_up_south.views:double",
    ]
