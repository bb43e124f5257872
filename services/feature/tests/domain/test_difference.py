import dataclasses
from typing import Any

import pytest

from setpoint_columns import DataType
from setpoint_feature.domain import definitions, difference

LATE = definitions.Field("late", DataType.FLOAT64, 0.2)
KEYS = (definitions.FieldSpec("carrier", DataType.STRING),)
VIEW = definitions.FeatureView("delays", "carrier", (LATE,), keys=KEYS, version="v1")
REFERENCE = definitions.FeatureReference("delays", "late", view_version="v1", dtype=LATE.dtype)
SET = definitions.FeatureSet("flights", (REFERENCE,), version="s1")
COUNT = definitions.Field("count", DataType.INT64, 0)
replace = dataclasses.replace


def told(
    before: definitions.Definition | None, after: definitions.Definition
) -> list[tuple[str, str, str]]:
    return [(each.field, each.before, each.after) for each in difference.between(before, after)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"version": "v2", "create_time": 9, "keys": ()}, []),
        ({"ttl": 604_800_000_000}, [("ttl", "for ever", "7 d")]),
        ({"ttl": 90_060_000_001}, [("ttl", "for ever", "1 d 1 h 1 min 1 µs")]),
        ({"retention": 86_400_000_000}, [("retention", "for ever", "1 d")]),
        (
            {"boundary": definitions.Boundary.EXCLUSIVE},
            [("boundary", "inclusive", "exclusive")],
        ),
        (
            {"fields": (replace(LATE, dtype=DataType.FLOAT32, default=None),)},
            [
                ("fields[late].dtype", "FLOAT64", "FLOAT32"),
                ("fields[late].default", "0.2", ""),
            ],
        ),
        ({"fields": (LATE, COUNT)}, [("fields[count]", "", "dtype INT64, default 0")]),
        (
            {"fields": (COUNT,)},
            [
                ("fields[late]", "dtype FLOAT64, default 0.2", ""),
                ("fields[count]", "", "dtype INT64, default 0"),
            ],
        ),
        ({"tags": {"team": "ops"}}, [("tags[team]", "", "ops")]),
    ],
)
def test_between_views(changes: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    """Each thing that differs is told once, by its path; what the service sets is not."""
    assert told(VIEW, replace(VIEW, **changes)) == expected


def test_between_orders() -> None:
    """Fields that change places are told, since rows are packed in their order."""
    two = replace(VIEW, fields=(LATE, COUNT))

    assert told(two, replace(two, fields=(COUNT, LATE))) == [
        ("fields in order", "late, count", "count, late")
    ]


def test_between_nothing_and_something() -> None:
    """Of a new definition everything is told that it says."""
    assert told(None, replace(VIEW, owner="ops")) == [
        ("entity", "", "carrier"),
        ("fields[late]", "", "dtype FLOAT64, default 0.2"),
        ("owner", "", "ops"),
    ]


def test_between_sets() -> None:
    """Columns are known by their name, so a feature of another view under the same name is a change of it."""
    moved = replace(REFERENCE, view="other", view_version="v9", key_columns={"carrier": "airline"})

    assert told(SET, replace(SET, features=(moved,))) == [
        ("features[late].view", "delays", "other"),
        ("features[late].key_columns[carrier]", "", "airline"),
        ("features[late].view_version", "v1", "v9"),
    ]


def test_what_people_read_makes_no_version() -> None:
    """Descriptions, owners, tags, sensitivity and the place of code are told as such."""
    after = replace(
        VIEW,
        description="d",
        ttl=1,
        tags={"a": "b"},
        fields=(replace(LATE, sensitive=True, description="share", tags={"c": "d"}),),
    )

    found = {each.field: each.makes_version for each in difference.between(VIEW, after)}

    assert found == {
        "fields[late].sensitive": False,
        "fields[late].description": False,
        "fields[late].tags[c]": False,
        "ttl": True,
        "description": False,
        "tags[a]": False,
    }


def test_between_sets_shows_code() -> None:
    """A changed function is told by its hash, which makes the version, and by its code, for people."""
    old = definitions.Transformation(
        "speed", "m:speed", {"x": "x"}, DataType.FLOAT64, "h1", "def speed(x):\n    return x\n"
    )
    new = replace(old, source_hash="h2", source="def speed(x):\n    return 2 * x\n")

    found = difference.between(
        replace(SET, transformations=(old,)), replace(SET, transformations=(new,))
    )

    assert [(each.field, each.makes_version) for each in found] == [
        ("transformations[speed].source_hash", True),
        ("transformations[speed].source", False),
    ]
    (added,) = difference.between(SET, replace(SET, transformations=(old,)))
    assert (added.field, added.before) == ("transformations[speed]", "")
    assert added.after == "function m:speed, inputs x: x, dtype FLOAT64, source hash h1"


def test_between_knows_that_retention_makes_no_version() -> None:
    """What makes a version is told apart from what stands beside it."""
    found = difference.between(VIEW, replace(VIEW, ttl=1, retention=1))

    assert {each.field: each.makes_version for each in found} == {"ttl": True, "retention": False}
