"""The tensors that a model takes or gives, and the columns that they hold.

A model's own tensor is a matrix [rows, columns]. A caller may send that, or each column alone as
[rows] or [rows, 1] under the column's name, and may ask for outputs by either name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import MAX_NAME_LENGTH, NUMPY_TYPES, DataType
from setpoint_oip import datatypes, tensors
from setpoint_oip.datatypes import BYTES, DATATYPES, AnyArray
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.tensors import Tensor
from setpoint_runtime import errors


class Spec(Protocol):
    """A tensor of a model."""

    @property
    def name(self) -> str:
        """Its name in the model."""
        ...

    @property
    def dtype(self) -> DataType:
        """The type of its columns."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """The columns that it holds, side by side."""
        ...


class Held(NamedTuple):
    """A tensor of a model, for those who have no other description of it."""

    name: str
    dtype: DataType
    columns: tuple[str, ...]


_NAMES_SHOWN: Final = 10
_REFUSED: Final = {
    "classification": "classes are not served; ask for the output itself",
    "shared_memory_region": "shared memory is not served; the answer is in the message",
}
"""Parameters of other servers without which the caller would not get what it asked for."""


class Layout:
    """One side of a model: its tensors, and by name what may be sent or asked for."""

    def __init__(self, specs: Iterable[Spec], also: Iterable[Spec] = ()) -> None:
        """Describe the tensors of one side; those of `also` are understood but not advertised."""
        self.specs = tuple(specs)
        known = (*also, *self.specs)
        self._matrices = {spec.name: spec for spec in known}
        self._alone = {name: spec for spec in known for name in spec.columns}

    def metadata(self) -> list[pb.ModelMetadataResponse.TensorMetadata]:
        """Return the tensors as the protocol describes them."""
        return [
            pb.ModelMetadataResponse.TensorMetadata(
                name=spec.name,
                datatype=datatypes.OF_COLUMN[spec.dtype].name,
                shape=(-1, len(spec.columns)),
            )
            for spec in self.specs
        ]

    def check(self, name: str, shape: tensors.Shape) -> Spec:
        """Return the tensor that an input is, with the columns that it holds.

        Raises:
            InvalidArgumentError: There is none of this name and shape.
        """
        spec, alone = self._matrices.get(name), self._alone.get(name)
        if spec is not None:
            width = len(spec.columns)
            if shape[1:] == (width,) or (width == 1 and len(shape) == 1):
                return spec
        if alone is not None and (len(shape) == 1 or shape[1:] == (1,)):
            return Held(name, alone.dtype, (name,))
        if spec is None and alone is None:
            rule = f"is not known; there are {_listed([*self._matrices, *self._alone])}"
            raise errors.invalid(f'inputs["{name[:100]}"]', name, rule, UNKNOWN)
        width = 1 if spec is None else len(spec.columns)
        wanted = "[rows] or [rows, 1]" if width == 1 else f"[rows, {width}]"
        raise tensors.malformed(f'inputs["{name}"].shape', list(shape), f"must be {wanted}")

    def columns(self, given: Sequence[Tensor]) -> Columns:
        """Return the columns that inputs hold.

        Types widen to the nearest of a column; whether a value fits the model is not looked at.

        Raises:
            InvalidArgumentError: Names the tensor, the value and the rule.
        """
        if not given:
            raise errors.invalid("inputs", 0, "must hold tensors", errors.Reason.MISSING_FIELD)
        rows = rows_of(given)
        found: dict[str, Column] = {}
        for tensor in given:
            spec = self.check(tensor.name, tensor.array.shape)
            matrix = tensor.array.reshape(rows, len(spec.columns))
            for at, name in enumerate(spec.columns):
                if name in found:
                    rule = f"holds the column {name!r}, which another tensor holds too"
                    raise tensors.malformed(_path(tensor), list(tensor.array.shape), rule)
                found[name] = _column(tensor, name, spec.dtype, matrix[:, at])
        return Columns(rows, found.values())

    def wanted(
        self, outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor]
    ) -> list[Spec]:
        """Return the tensors that a caller asks for, in its order; a column alone is one too.

        Raises:
            InvalidArgumentError: An output is unknown, or asked for twice.
            UnimplementedError: It is wanted in another form.
        """
        if not outputs:
            return list(self.specs)
        found: dict[str, Spec] = {}
        for index, output in enumerate(outputs):
            name = output.name
            spec = self._matrices.get(name)
            if spec is None and name in self._alone:
                spec = Held(name, self._alone[name].dtype, (name,))
            if spec is None:
                rule = f"is not known; there are {_listed([*self._matrices, *self._alone])}"
                raise errors.invalid(f"outputs[{index}].name", name, rule, UNKNOWN)
            if name in found:
                raise tensors.malformed(f"outputs[{index}].name", name, "must be asked for once")
            for parameter, why in _REFUSED.items():
                if parameter in output.parameters:
                    message = f'outputs["{name}"].parameters["{parameter}"]: {why}'
                    raise errors.UnimplementedError(errors.Reason.UNIMPLEMENTED, message)
            found[name] = spec
        return list(found.values())


UNKNOWN: Final = errors.Reason.UNKNOWN_FIELD


def rows_of(given: Sequence[Tensor]) -> int:
    """Return the number of rows that all inputs have.

    Raises:
        InvalidArgumentError: They have none, or differ in it.
    """
    rows = None
    for tensor in given:
        shape = tensor.array.shape
        if not shape:
            raise tensors.malformed(f"{_path(tensor)}.shape", [], "must begin with the rows")
        if rows is None:
            rows = shape[0]
        elif shape[0] != rows:
            rule = f'must have {rows} rows, as inputs["{given[0].name}"] has'
            raise tensors.malformed(f"{_path(tensor)}.shape", list(shape), rule)
    return rows or 0


def gathered(specs: Iterable[Spec], values: Mapping[str, AnyArray], rows: int) -> list[Tensor]:
    """Return tensors [rows, columns] of the columns' values, by name."""
    made = []
    for spec in specs:
        datatype = datatypes.OF_COLUMN[spec.dtype]
        parts = [values[name] for name in spec.columns]
        array = np.empty((rows, len(parts)), object if datatype is BYTES else parts[0].dtype)
        for at, part in enumerate(parts):
            array[:, at] = part
        made.append(Tensor(spec.name, datatype, array))
    return made


def _column(tensor: Tensor, name: str, dtype: DataType, values: AnyArray) -> Column:
    """Return a column; `dtype` decides only what the protocol cannot say."""
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise tensors.malformed("inputs.name", name, f"must have 1 to {MAX_NAME_LENGTH} characters")
    datatype = tensor.datatype
    if datatype is BYTES:
        return Column.from_list(name, _texts(tensor, values), DataType.STRING)
    if datatype is DATATYPES["UINT64"] and len(values) and values.max() > _MAX_INT64:
        rule = f"must be at most {_MAX_INT64}"
        raise errors.invalid(_path(tensor), int(values.max()), rule, errors.Reason.WRONG_TYPE)
    of = datatype.column
    if dtype is DataType.TIMESTAMP and of is DataType.INT64:
        of = DataType.TIMESTAMP
    return Column(name, of, values.astype(NUMPY_TYPES[of], copy=False))


_MAX_INT64: Final = (1 << 63) - 1


def _texts(tensor: Tensor, values: AnyArray) -> list[str]:
    found = []
    for row, each in enumerate(values.tolist()):
        try:
            found.append(each if isinstance(each, str) else each.decode())
        except UnicodeDecodeError:
            field, rule = f"{_path(tensor)}[{row}]", "must be text of valid UTF-8"
            raise errors.invalid(field, each, rule, errors.Reason.WRONG_TYPE) from None
    return found


def _path(tensor: Tensor) -> str:
    return f'inputs["{tensor.name}"]'


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = ", …" if len(unique) > _NAMES_SHOWN else ""
    return ", ".join(repr(name) for name in unique[:_NAMES_SHOWN]) + more
