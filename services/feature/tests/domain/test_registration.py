import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from setpoint_columns import DataType
from setpoint_feature.domain import catalog, definitions, registration
from setpoint_runtime import errors

CARRIER = definitions.Entity("carrier", (definitions.FieldSpec("carrier", DataType.STRING),))
PLANE = definitions.Entity("plane", (definitions.FieldSpec("carrier", DataType.INT64),))
LATE = definitions.Field("late", DataType.FLOAT64)
DELAYS = definitions.FeatureView("delays", "carrier", (LATE,))
REFERENCE = definitions.FeatureReference("delays", "late")
FLIGHTS = definitions.FeatureSet("flights", (REFERENCE,))

replace = dataclasses.replace


def known(*extra: definitions.Definition) -> catalog.Catalog:
    """Returns a catalog that holds the definitions above and some more."""
    made = catalog.Catalog()
    view = registration.view(_of(CARRIER), DELAYS, 7)
    stored = [replace(CARRIER, create_time=7), replace(PLANE, create_time=7), view, *extra]
    made.update(catalog.Stored(each, index, index) for index, each in enumerate(stored, 1))
    return made


def _of(entity: definitions.Entity) -> catalog.Catalog:
    made = catalog.Catalog()
    made.update([catalog.Stored(entity, 1)])
    return made


def refused(
    decide: Callable[..., Any], wanted: definitions.Definition
) -> tuple[errors.Reason, str]:
    """Returns why a definition is refused and which field is named."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        decide(known(), wanted, 9)
    return caught.value.reason, caught.value.violations[0].field


def test_entity_same_again_keeps_its_creation() -> None:
    """Registering the same definition again is no error, and a new description replaces the old."""
    stored = registration.entity(known(), replace(CARRIER, description="airline"), 9)

    assert stored == replace(CARRIER, description="airline", create_time=7)


def test_entity_with_other_keys_is_taken() -> None:
    """The keys of an entity never change, since rows are stored under them."""
    with pytest.raises(errors.AlreadyExistsError) as caught:
        registration.entity(known(), replace(PLANE, name="carrier"), 9)

    assert caught.value.reason is errors.Reason.NAME_TAKEN


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Bad Name"}, "entity.name"),
        (
            {"keys": tuple(definitions.FieldSpec(f"k{i}", DataType.INT64) for i in range(9))},
            "entity.keys",
        ),
        ({"keys": CARRIER.keys * 2}, "entity.keys"),
        ({"keys": (definitions.FieldSpec("", DataType.INT64),)}, "entity.keys[0].name"),
        ({"keys": (definitions.FieldSpec("event_time", DataType.INT64),)}, "entity.keys[0].name"),
        ({"keys": (definitions.FieldSpec("x", DataType.FLOAT64),)}, "entity.keys[0].dtype"),
        ({"description": "x" * 5000}, "entity.description"),
    ],
)
def test_entity_bad_field_is_named(changes: dict[str, Any], field: str) -> None:
    """A bad entity is refused with the path of what is wrong."""
    assert refused(registration.entity, replace(CARRIER, **changes))[1] == field


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"name": "a b"}, errors.Reason.INVALID_FIELD, "view.name"),
        ({"entity": "nobody"}, errors.Reason.ENTITY_NOT_FOUND, "view.entity"),
        ({"ttl": -1}, errors.Reason.INVALID_FIELD, "view.ttl_microseconds"),
        ({"fields": ()}, errors.Reason.INVALID_FIELD, "view.fields"),
        ({"fields": (LATE, LATE)}, errors.Reason.INVALID_FIELD, "view.fields"),
        (
            {"fields": (definitions.Field("note", DataType.STRING, finite=True),)},
            errors.Reason.WRONG_TYPE,
            "view.fields[0].finite",
        ),
        (
            {"fields": (replace(LATE, name="a b"),)},
            errors.Reason.INVALID_FIELD,
            "view.fields[0].name",
        ),
        (
            {"fields": (replace(LATE, name="carrier"),)},
            errors.Reason.INVALID_FIELD,
            "view.fields[0].name",
        ),
        (
            {"fields": (replace(LATE, name="created_time"),)},
            errors.Reason.INVALID_FIELD,
            "view.fields[0].name",
        ),
        (
            {"fields": (replace(LATE, default="text"),)},
            errors.Reason.WRONG_TYPE,
            "view.fields[0].default_value",
        ),
        (
            {"fields": (replace(LATE, default=math.nan),)},
            errors.Reason.INVALID_FIELD,
            "view.fields[0].default_value",
        ),
        (
            {"fields": (definitions.Field("n", DataType.INT32, 1 << 31),)},
            errors.Reason.WRONG_TYPE,
            "view.fields[0].default_value",
        ),
        (
            {"fields": (definitions.Field("s", DataType.STRING, "x" * 70_000),)},
            errors.Reason.TOO_LARGE,
            "view.fields[0].default_value",
        ),
    ],
)
def test_view_bad_field_is_named(
    changes: dict[str, Any], reason: errors.Reason, field: str
) -> None:
    """A bad view is refused with the path of what is wrong."""
    assert refused(registration.view, replace(DELAYS, **changes)) == (reason, field)


def test_view_changed_content_is_a_new_version() -> None:
    """What changes values makes a version, created now; what does not keeps version and creation."""
    stored = known().views.latest["delays"]
    reworded = registration.view(known(), replace(DELAYS, description="share"), 9)
    changed = registration.view(known(), replace(DELAYS, ttl=5), 9)

    assert (reworded.version, reworded.create_time) == (stored.version, 7)
    assert reworded.description == "share"
    assert changed.version != stored.version
    assert changed.create_time == 9


@pytest.mark.parametrize(
    ("features", "reason", "field"),
    [
        ((), errors.Reason.INVALID_FIELD, "feature_set.features"),
        ((REFERENCE, REFERENCE), errors.Reason.INVALID_FIELD, "feature_set columns"),
        (
            (replace(REFERENCE, view="nothing"),),
            errors.Reason.FEATURE_VIEW_NOT_FOUND,
            "feature_set.features[0].view",
        ),
        (
            (replace(REFERENCE, field="nothing"),),
            errors.Reason.UNKNOWN_FIELD,
            "feature_set.features[0].field",
        ),
        (
            (replace(REFERENCE, key_columns={"tail": "x"}),),
            errors.Reason.UNKNOWN_FIELD,
            "feature_set.features[0].key_columns",
        ),
        (
            (replace(REFERENCE, alias="carrier"),),
            errors.Reason.INVALID_FIELD,
            "feature_set.features[0].key_columns[carrier]",
        ),
        (
            (replace(REFERENCE, alias="not ok"),),
            errors.Reason.INVALID_FIELD,
            "feature_set.features[0].alias",
        ),
    ],
)
def test_feature_set_bad_field_is_named(
    features: tuple[definitions.FeatureReference, ...], reason: errors.Reason, field: str
) -> None:
    """A bad feature set is refused with the path of what is wrong."""
    assert refused(registration.feature_set, replace(FLIGHTS, features=features)) == (reason, field)


def test_feature_set_key_column_of_two_types_is_refused() -> None:
    """One request column cannot be text for one view and a number for another."""
    ages = registration.view(known(), definitions.FeatureView("ages", "plane", (LATE,)), 1)
    both = replace(
        FLIGHTS, features=(REFERENCE, definitions.FeatureReference("ages", "late", "age"))
    )

    with pytest.raises(errors.InvalidArgumentError) as caught:
        registration.feature_set(known(ages), both, 9)

    assert caught.value.reason is errors.Reason.WRONG_TYPE
    assert caught.value.violations[0].field == "feature_set.features[1].key_columns[carrier]"


def test_feature_set_binds_versions_and_types() -> None:
    """The stored set names the exact view versions, types, and only keys that are renamed."""
    wanted = replace(
        FLIGHTS,
        features=(replace(REFERENCE, key_columns={"carrier": "carrier"}),),
        request_fields=(definitions.FieldSpec("carrier", DataType.STRING),),
    )

    stored = registration.feature_set(known(), wanted, 9)

    (bound,) = stored.features
    assert bound.view_version == known().views.latest["delays"].version
    assert bound.dtype is DataType.FLOAT64
    assert bound.key_columns == {}
    assert registration.feature_set(known(stored), FLIGHTS, 10).version != stored.version
    assert registration.feature_set(known(stored), wanted, 10) == stored


def test_is_latest_tells_a_way_back() -> None:
    """Registering an old version again makes it the latest again, so it is not the latest before."""
    first = known().views.latest["delays"]
    second = registration.view(known(), replace(DELAYS, ttl=5), 9)
    both = known(second)

    assert registration.is_latest(both, second)
    assert not registration.is_latest(both, registration.view(both, DELAYS, 11))
    assert registration.view(both, DELAYS, 11) == first
