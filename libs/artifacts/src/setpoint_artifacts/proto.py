"""Tensors and samples of the registry's contract, for everyone who reads manifests."""

import itertools
import math
from collections.abc import Sequence

import setpoint_columns.proto as column_messages
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts.samples import Samples
from setpoint_artifacts.signature import Missing, TensorSpec
from setpoint_columns import value as values
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors

MAX_SAMPLES = 256
"""Most recorded rows of a manifest: every load runs them."""


def tensor_from_proto(message: model_pb2.TensorSpec, field: str) -> TensorSpec:
    """Return a tensor of a manifest.

    Args:
        message: The tensor.
        field: Its path, for errors.

    Raises:
        InvalidArgumentError: The type is unknown, or a rule for missing values does not fit it.
    """
    try:
        dtype = DataType(message.dtype)
    except ValueError:
        raise errors.invalid(f"{field}.dtype", message.dtype, "must be a known data type") from None
    columns = tuple(message.columns)
    missing: list[Missing] = []
    for index, rule in enumerate(message.missing_values):
        path = f"{field}.missing_values[{index}]"
        if rule.column not in columns:
            raise errors.invalid(f"{path}.column", rule.column, "must be a column of the tensor")
        if any(rule.column == other.column for other in missing):
            raise errors.invalid(f"{path}.column", rule.column, "must be there only once")
        substitute = None
        if rule.HasField("substitute"):
            substitute = values.from_proto(rule.substitute, f"{path}.substitute", dtype)
            if substitute is None:
                raise errors.invalid(f"{path}.substitute", None, "must not be null")
        missing.append(Missing(rule.column, substitute))
    return TensorSpec(message.name, dtype, columns, tuple(missing))


def samples_from_proto(
    message: model_pb2.Samples,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    field: str,
) -> Samples:
    """Return the recorded rows of a manifest.

    Args:
        message: The rows with their answers.
        inputs: What the manifest says that the model takes.
        outputs: What it gives.
        field: Path of the message, for errors.

    Raises:
        InvalidArgumentError: The rows do not fit the manifest.
    """
    given = column_messages.from_proto(message.inputs, f"{field}.inputs")
    expected = column_messages.from_proto(message.outputs, f"{field}.outputs")
    if not 1 <= given.rows <= MAX_SAMPLES:
        raise errors.invalid(f"{field}.inputs.rows", given.rows, f"must be 1 to {MAX_SAMPLES}")
    if expected.rows != given.rows:
        raise errors.invalid(f"{field}.outputs.rows", expected.rows, f"must be {given.rows}")
    for name in itertools.chain(*(spec.columns for spec in inputs)):
        if name not in given:
            reason = errors.Reason.MISSING_FIELD
            raise errors.invalid(f"{field}.inputs.{name}", None, "must be given", reason)
    types = {column: spec.dtype for spec in outputs for column in spec.columns}
    if not len(expected):
        raise errors.invalid(f"{field}.outputs.columns", [], "must not be empty")
    for column in expected.columns:
        if types.get(column.name) is not column.dtype:
            rule = "must be an output column, of its type"
            raise errors.invalid(f"{field}.outputs.{column.name}", column.dtype.name, rule)
        if column.validity is not None:
            raise errors.invalid(f"{field}.outputs.{column.name}", None, "must not be null")
    for name in ("absolute_tolerance", "relative_tolerance"):
        tolerance = getattr(message, name)
        if not 0 <= tolerance < math.inf:
            raise errors.invalid(f"{field}.{name}", tolerance, "must be finite, at least 0")
    return Samples(given, expected, message.absolute_tolerance, message.relative_tolerance)
