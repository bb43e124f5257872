import dataclasses

import pytest

from setpoint_columns import DataType
from setpoint_feature.domain import definitions, versions

VIEW = definitions.FeatureView(
    name="delays",
    entity="carrier",
    fields=(
        definitions.Field("late", DataType.FLOAT64, 0.5),
        definitions.Field("count", DataType.INT64),
    ),
    ttl=10,
    keys=(definitions.FieldSpec("carrier", DataType.STRING),),
)
LATE, COUNT = VIEW.fields


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(VIEW, name="other"),
        dataclasses.replace(VIEW, entity="other"),
        dataclasses.replace(VIEW, keys=(definitions.FieldSpec("carrier", DataType.INT64),)),
        dataclasses.replace(VIEW, ttl=11),
        dataclasses.replace(VIEW, boundary=definitions.Boundary.EXCLUSIVE),
        dataclasses.replace(VIEW, fields=(COUNT, LATE)),
        dataclasses.replace(VIEW, fields=(LATE,)),
        dataclasses.replace(VIEW, fields=(dataclasses.replace(LATE, default=0.25), COUNT)),
        dataclasses.replace(VIEW, fields=(dataclasses.replace(LATE, default=None), COUNT)),
        dataclasses.replace(VIEW, fields=(LATE, dataclasses.replace(COUNT, dtype=DataType.INT32))),
    ],
)
def test_view_version_changes_with_values(changed: definitions.FeatureView) -> None:
    """Whatever changes which values are seen makes another version."""
    assert versions.view_version(changed) != versions.view_version(VIEW)


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(VIEW, description="for people", owner="team", create_time=5),
        dataclasses.replace(VIEW, fields=(dataclasses.replace(LATE, sensitive=True), COUNT)),
        dataclasses.replace(VIEW, fields=(dataclasses.replace(LATE, description="x"), COUNT)),
    ],
)
def test_view_version_ignores_what_people_read(changed: definitions.FeatureView) -> None:
    """Descriptions, owner and sensitivity do not start the values anew."""
    assert versions.view_version(changed) == versions.view_version(VIEW)


def test_view_version_follows_what_is_refused() -> None:
    """A view that promises finite values is another one than a view that may hold NaN."""
    finite = dataclasses.replace(VIEW, fields=(dataclasses.replace(LATE, finite=True), COUNT))

    assert versions.view_version(finite) != versions.view_version(VIEW)


def test_view_version_of_both_integer_keys_is_one() -> None:
    """int32 and int64 keys are the same keys, so they are the same version."""
    made = [
        dataclasses.replace(VIEW, keys=(definitions.FieldSpec("carrier", dtype),))
        for dtype in (DataType.INT32, DataType.INT64)
    ]

    assert versions.view_version(made[0]) == versions.view_version(made[1])


def test_feature_set_version_follows_view_versions() -> None:
    """A set bound to another version of its view is another version of the set."""
    reference = definitions.FeatureReference(
        "delays", "late", view_version="a", dtype=DataType.FLOAT64
    )
    first = definitions.FeatureSet("flights", (reference,))
    second = definitions.FeatureSet("flights", (dataclasses.replace(reference, view_version="b"),))

    assert versions.feature_set_version(first) != versions.feature_set_version(second)


def test_versions_are_stable() -> None:
    """Consumers pin versions, so the hash of a definition never changes."""
    reference = definitions.FeatureReference(
        "delays", "late", view_version="a", dtype=DataType.FLOAT64
    )

    assert versions.view_version(VIEW) == "16df78ee1f03199e"
    assert (
        versions.feature_set_version(definitions.FeatureSet("f", (reference,)))
        == "59ef124f9d603281"
    )
