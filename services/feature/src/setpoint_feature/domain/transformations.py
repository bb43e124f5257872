"""The transformations of a feature set: bound to functions, and in an order in which they can be computed."""

import dataclasses
import graphlib
from collections.abc import Sequence

from setpoint_feature.domain import checks, definitions
from setpoint_features import declaration, library
from setpoint_runtime import errors


def bind(
    wanted: definitions.FeatureSet, functions: library.Library
) -> tuple[definitions.Transformation, ...]:
    """Returns the transformations of a set with types, inputs and hashes filled in.

    Raises:
        InvalidArgumentError: Names a bad field: an unknown function, parameter or column, or a circle.
        FailedPreconditionError: TRANSFORMATION_MISMATCH, when a function is not the one that the caller has.
    """
    columns = {each.column for each in wanted.features}
    columns |= {each.name for each in wanted.request_fields}
    columns |= {each.name for each in wanted.transformations}
    bound = tuple(
        _bind(each, functions, columns, f"feature_set.transformations[{index}]")
        for index, each in enumerate(wanted.transformations)
    )
    _refuse_circle(bound)
    return bound


def _bind(
    wanted: definitions.Transformation, functions: library.Library, columns: set[str], field: str
) -> definitions.Transformation:
    function = functions.find(wanted.function)
    if function is None:
        raise errors.invalid(
            f"{field}.function",
            wanted.function,
            "must be a transformation in one of the service's modules (SETPOINT_FEATURE_MODULES)",
            errors.Reason.TRANSFORMATION_NOT_FOUND,
        )
    if wanted.source_hash not in ("", function.source_hash):
        raise mismatch(wanted, function)
    for parameter in wanted.inputs:
        if parameter not in function.parameters:
            rule = f"must be a parameter of {wanted.function}: {', '.join(function.parameters)}"
            raise errors.invalid(f"{field}.inputs", parameter, rule, errors.Reason.UNKNOWN_FIELD)
    inputs = {each: wanted.inputs.get(each, each) for each in function.parameters}
    for parameter, column in inputs.items():
        if column not in columns:
            rule = "must be a feature, a request field or a transformation of the set"
            raise errors.invalid(
                f"{field}.inputs[{parameter}]", column, rule, errors.Reason.UNKNOWN_FIELD
            )
    return dataclasses.replace(
        wanted,
        inputs=inputs,
        dtype=function.dtype,
        source_hash=function.source_hash,
        source=function.source[: checks.MAX_SOURCE],
    )


def mismatch(
    registered: definitions.Transformation, found: declaration.Transformation
) -> errors.FailedPreconditionError:
    """Returns the error for a function that is not the one it should be."""
    return errors.FailedPreconditionError(
        errors.Reason.TRANSFORMATION_MISMATCH,
        f"transformation {registered.name!r}: {found.name} has the source hash {found.source_hash} here, and "
        f"{registered.source_hash} is asked for; a changed function needs another name or a new version of the set",
        metadata={
            "transformation": registered.name,
            "function": found.name,
            "expected": registered.source_hash,
            "found": found.source_hash,
        },
    )


def ordered(feature_set: definitions.FeatureSet) -> list[definitions.Transformation]:
    """Returns the bound transformations of a set so that each follows those that it reads."""
    by_name = {each.name: each for each in feature_set.transformations}
    order = _sorter(feature_set.transformations).static_order()
    return [by_name[name] for name in order if name in by_name]


def _refuse_circle(bound: Sequence[definitions.Transformation]) -> None:
    try:
        _sorter(bound).prepare()
    except graphlib.CycleError as error:
        # The way goes from what is read to who reads it; its first is also its last.
        circle = error.args[1][::-1]
        index = next(index for index, each in enumerate(bound) if each.name == circle[0])
        raise errors.invalid(
            f"feature_set.transformations[{index}].inputs",
            " reads ".join(circle),
            "must not read what is computed from the transformation itself",
        ) from None


def _sorter(bound: Sequence[definitions.Transformation]) -> "graphlib.TopologicalSorter[str]":
    return graphlib.TopologicalSorter({each.name: list(each.inputs.values()) for each in bound})
