"""What a model takes and gives, as a graph has it and as a manifest states it.

Pure: neither ONNX nor protobuf is needed to compare the two.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from setpoint_artifacts import refusal
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors

_ELEMENTS: Final[dict[DataType, str]] = {
    DataType.BOOL: "bool",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.FLOAT32: "float",
    DataType.FLOAT64: "double",
    DataType.STRING: "string",
    DataType.TIMESTAMP: "int64",
}
"""ONNX's name of the element type that carries a data type."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a graph."""

    name: str
    element: str
    """ONNX's element type in lower case, or a word such as `sequence` for what is no tensor."""
    shape: tuple[int | None, ...] | None
    """None for a size that only a run knows, or for all of them when even the rank is open."""
    classes: tuple[int | str, ...] | None = None
    """Keys of the map that ZipMap makes of each row; the tensor is what went into it."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs that a graph needs, and its outputs, in the graph's order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    has_loops: bool = False
    """How long a run takes may depend on the values that go in, without any bound."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return what `to_json` was called on."""
        return cls(
            _tensors(content["inputs"]),
            _tensors(content["outputs"]),
            has_loops=content.get("has_loops", False),
        )


def _tensors(listed: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            each["name"],
            each["element"],
            None if each["shape"] is None else tuple(each["shape"]),
            None if each.get("classes") is None else tuple(each["classes"]),
        )
        for each in listed
    )


class Missing(NamedTuple):
    """What becomes of a missing value of a column: of a null, and of NaN in floats."""

    column: str
    substitute: bool | int | float | str | None
    """What the model gets instead; None where a missing value is refused."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of the manifest: which columns it holds, as [rows, len(columns)]."""

    name: str
    dtype: DataType
    columns: tuple[str, ...]
    missing: tuple[Missing, ...] = ()
    """Columns of an input with a rule of their own for missing values."""


def check(
    signature: Signature, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Compare a graph with a manifest.

    Every input of the graph must be in the manifest, since a run needs them all; of the outputs
    the manifest may leave some out.

    Raises:
        RefusedError: SIGNATURE_MISMATCH, naming the tensor.
    """
    _check_side("input", signature.inputs, inputs)
    _check_side("output", signature.outputs, outputs)
    named = {spec.name for spec in inputs}
    for tensor in signature.inputs:
        if tensor.name not in named:
            raise _mismatch("input", tensor.name, "is missing in the manifest")


def _check_side(side: str, tensors: Sequence[Tensor], specs: Sequence[TensorSpec]) -> None:
    by_name = {tensor.name: tensor for tensor in tensors}
    for spec in specs:
        tensor = by_name.get(spec.name)
        if tensor is None:
            there = ", ".join(repr(name) for name in by_name) or "none"
            raise _mismatch(side, spec.name, f"is not in the graph, which has {there}")
        wanted = _ELEMENTS[spec.dtype]
        if tensor.element != wanted:
            hint = "; of sequences only those of ZipMap are" if tensor.element == "sequence" else ""
            raise _mismatch(
                side, spec.name, f"holds {tensor.element} in the graph, not {wanted}{hint}"
            )
        _check_shape(side, spec, tensor.shape)


def _check_shape(side: str, spec: TensorSpec, shape: tuple[int | None, ...] | None) -> None:
    if shape is None:
        return
    width = len(spec.columns)
    if len(shape) not in (1, 2) or (len(shape) == 1 and width != 1):
        raise _mismatch(
            side, spec.name, f"has the shape {_shown(shape)} in the graph, not [rows, {width}]"
        )
    if shape[0] is not None:
        raise _mismatch(
            side,
            spec.name,
            f"has a fixed number of rows ({shape[0]}) in the graph; it must be open",
        )
    if len(shape) == 2 and shape[1] not in (None, width):
        # Some converters declare one column for any number of targets.
        hint = "; if the graph declares it wrongly, correct its output" if side == "output" else ""
        raise _mismatch(
            side,
            spec.name,
            f"has {shape[1]} columns in the graph and {width} in the manifest{hint}",
        )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("rows" if size is None else str(size) for size in shape) + "]"


def _mismatch(side: str, name: str, rule: str) -> refusal.RefusedError:
    return refusal.RefusedError(errors.Reason.SIGNATURE_MISMATCH, f"{side} tensor {name!r} {rule}")
