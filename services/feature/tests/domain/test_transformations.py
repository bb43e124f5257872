import dataclasses
from typing import Any

import pytest

from setpoint_columns import DataType
from setpoint_feature.domain import definitions, transformations, versions
from setpoint_features import DataType as Exported
from setpoint_features import declaration, library, transformation
from setpoint_runtime import errors


@transformation(DataType.FLOAT64)
def speed(distance: Any, minutes: Any) -> Any:
    return distance / minutes


@transformation(DataType.INT64)
def rounded(value: Any) -> Any:
    return value.round().astype(int)


FUNCTIONS = library.Library(
    [made for made in map(declaration.of, (speed, rounded)) if made is not None]
)
SPEED, ROUNDED = f"{__name__}:speed", f"{__name__}:rounded"
REFERENCE = definitions.FeatureReference("planes", "minutes")
DISTANCE = definitions.FieldSpec("distance", DataType.FLOAT64)
replace = dataclasses.replace


def derived(name: str, function: str = ROUNDED, **inputs: str) -> definitions.Transformation:
    return definitions.Transformation(name, function, inputs)


def feature_set(*made: definitions.Transformation) -> definitions.FeatureSet:
    return definitions.FeatureSet("flights", (REFERENCE,), (DISTANCE,), transformations=tuple(made))


def bind(*made: definitions.Transformation) -> tuple[definitions.Transformation, ...]:
    return transformations.bind(feature_set(*made), FUNCTIONS)


def refused(*made: definitions.Transformation) -> tuple[errors.Reason, str, str]:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        bind(*made)
    violation = caught.value.violations[0]
    return caught.value.reason, violation.field, violation.description


def test_bind_fills_in_what_the_function_declares() -> None:
    """Type, hash, source and the column of every parameter come from the function."""
    (found,) = bind(derived("mph", SPEED))

    declared = declaration.of(speed)
    assert declared is not None
    assert Exported is DataType
    assert found.inputs == {"distance": "distance", "minutes": "minutes"}
    assert found.dtype is DataType.FLOAT64
    assert found.source_hash == declared.source_hash
    assert found.source.startswith("@transformation(DataType.FLOAT64)\ndef speed")


@pytest.mark.parametrize(
    ("made", "reason", "field"),
    [
        (
            derived("x", "nowhere:nothing"),
            errors.Reason.TRANSFORMATION_NOT_FOUND,
            "feature_set.transformations[0].function",
        ),
        (
            derived("x", SPEED, altitude="distance"),
            errors.Reason.UNKNOWN_FIELD,
            "feature_set.transformations[0].inputs",
        ),
        (
            derived("x", SPEED, minutes="nothing"),
            errors.Reason.UNKNOWN_FIELD,
            "feature_set.transformations[0].inputs[minutes]",
        ),
        (
            derived("x"),
            errors.Reason.UNKNOWN_FIELD,
            "feature_set.transformations[0].inputs[value]",
        ),
    ],
)
def test_bind_bad_field_is_named(
    made: definitions.Transformation, reason: errors.Reason, field: str
) -> None:
    """A transformation that cannot be bound is refused with the path of what is wrong."""
    assert refused(made)[:2] == (reason, field)


def test_bind_refuses_another_hash_with_both() -> None:
    """A caller whose code is not the service's hears of both."""
    wanted = replace(derived("mph", SPEED), source_hash="0123456789abcdef")

    with pytest.raises(errors.FailedPreconditionError) as caught:
        bind(wanted)

    found = FUNCTIONS.find(SPEED)
    assert found is not None
    assert caught.value.reason is errors.Reason.TRANSFORMATION_MISMATCH
    assert caught.value.metadata["expected"] == "0123456789abcdef"
    assert caught.value.metadata["found"] == found.source_hash


@pytest.mark.parametrize(
    ("made", "circle"),
    [
        ([derived("a", value="a")], {"a reads a"}),
        (
            [derived("a", value="b"), derived("b", value="a")],
            {"a reads b reads a", "b reads a reads b"},
        ),
        (
            [
                derived("ok", value="minutes"),
                derived("a", value="b"),
                derived("b", value="c"),
                derived("c", value="a"),
            ],
            {"a reads b reads c reads a", "b reads c reads a reads b", "c reads a reads b reads c"},
        ),
    ],
)
def test_bind_refuses_a_circle_by_its_names(
    made: list[definitions.Transformation], circle: set[str]
) -> None:
    """Transformations that read each other in a circle are told by the way round it."""
    _, field, description = refused(*made)

    assert field.endswith(".inputs")
    assert any(each in description for each in circle), description


def test_ordered_puts_each_behind_what_it_reads() -> None:
    """The order of definition does not matter, however deep the chain."""
    count = 900
    made = [derived(f"t{at}", value=f"t{at + 1}") for at in range(count - 1)]
    bound = bind(*made, derived(f"t{count - 1}", value="minutes"))

    order = transformations.ordered(replace(feature_set(), transformations=bound))

    assert [each.name for each in order] == [f"t{at}" for at in reversed(range(count))]


def test_version_goes_by_the_code_and_not_by_its_place() -> None:
    """The hash and the inputs of a transformation are part of a set's version, its place is not."""
    bound = bind(derived("mph", SPEED))
    plain = versions.feature_set_version(feature_set())

    def version(**changes: Any) -> str:
        changed = tuple(replace(each, **changes) for each in bound)
        return versions.feature_set_version(feature_set(*changed))

    assert version() != plain
    assert version(function="elsewhere:speed", source="x") == version()
    assert version(source_hash="0") != version()
    assert version(inputs={"distance": "minutes", "minutes": "distance"}) != version()
