"""What transformations are to be run for a feature set, and on what."""

from dataclasses import dataclass

from setpoint_columns import Columns
from setpoint_columns import columns as parts
from setpoint_feature.domain import definitions, transformations
from setpoint_features import declaration, library
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class Step:
    """One column to compute."""

    name: str
    function: declaration.Transformation
    inputs: tuple[str, ...]
    """Columns, in the order of the function's parameters."""


@dataclass(frozen=True, eq=False)
class Derivation:
    """The transformations of a feature set, ready to run."""

    steps: tuple[Step, ...]
    """So that each follows those that it reads."""
    names: tuple[str, ...]
    """The columns that they make, in the order of the answer."""
    request_fields: tuple[definitions.FieldSpec, ...]
    """Request fields that they read."""

    def given(self, table: Columns, field: str) -> Columns:
        """Returns the request fields of a table that are read.

        Raises:
            InvalidArgumentError: One is absent or of another type; names it.
        """
        found = {}
        for spec in self.request_fields:
            column = table.by_name.get(spec.name)
            path = f"{field}.{spec.name}"
            if column is None:
                rule = "must hold the request field, which a transformation reads"
                raise errors.invalid(path, None, rule, errors.Reason.MISSING_FIELD)
            if column.dtype is not spec.dtype:
                column = column.rename(path[:256]).cast(spec.dtype).rename(spec.name)
            found[spec.name] = column
        return parts.trusted(table.rows, found)


def compile_derivation(
    feature_set: definitions.FeatureSet, functions: library.Library
) -> Derivation | None:
    """Returns how the transformations of a bound feature set run, None when it has none.

    Raises:
        FailedPreconditionError: TRANSFORMATION_NOT_FOUND, or TRANSFORMATION_MISMATCH with both hashes.
    """
    if not feature_set.transformations:
        return None
    steps = tuple(
        Step(each.name, function, tuple(each.inputs[name] for name in function.parameters))
        for each in transformations.ordered(feature_set)
        for function in (_function(each, functions),)
    )
    read = {column for step in steps for column in step.inputs}
    return Derivation(
        steps,
        tuple(each.name for each in feature_set.transformations),
        tuple(spec for spec in feature_set.request_fields if spec.name in read),
    )


def request_columns(feature_set: definitions.FeatureSet) -> tuple[definitions.FieldSpec, ...]:
    """Returns the request fields that the transformations of a bound set read."""
    read = {column for each in feature_set.transformations for column in each.inputs.values()}
    return tuple(spec for spec in feature_set.request_fields if spec.name in read)


def _function(
    each: definitions.Transformation, functions: library.Library
) -> declaration.Transformation:
    found = functions.find(each.function)
    if found is None:
        raise errors.FailedPreconditionError(
            errors.Reason.TRANSFORMATION_NOT_FOUND,
            f"transformation {each.name!r}: {each.function} is in none of the service's modules "
            "(SETPOINT_FEATURE_MODULES)",
            metadata={"transformation": each.name, "function": each.function},
        )
    if found.source_hash != each.source_hash:
        raise transformations.mismatch(each, found)
    return found
