"""Tensors out of messages and into them; the place where the bytes of others are checked.

A message holds all of its tensors raw or all of them typed. Both are read into numpy arrays, and a
message that breaks a rule is refused with the tensor, the value and the rule.
"""

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from setpoint_columns.dtypes import MAX_ROWS
from setpoint_oip import datatypes
from setpoint_oip.datatypes import BYTES, DATATYPES, AnyArray, Datatype
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_runtime import errors

Side = Literal["input", "output"]
Shape = tuple[int, ...]
Check = Callable[[str, Shape], object]
"""Refuses a name or a shape before the elements are read."""

_LENGTH: Final = struct.Struct("<I")
_MAX_AXES: Final = 32
"""Every version of numpy knows as many."""
_MAX_ELEMENTS: Final = 1 << 40
"""More than any message can hold."""
_FIELDS: Final = tuple(field.name for field in pb.InferTensorContents.DESCRIPTOR.fields)


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array of one datatype."""

    name: str
    datatype: Datatype
    array: AnyArray
    """As numpy counts with it: BOOL as bools, FP16 as float16, BF16 as float32, BYTES as objects."""


def of_request(request: pb.ModelInferRequest, check: Check | None = None) -> list[Tensor]:
    """Return the inputs of a request.

    Raises:
        InvalidArgumentError: Names the tensor, the value and the rule.
    """
    return _read(request.inputs, request.raw_input_contents, "input", check)


def rows_of_request(request: pb.ModelInferRequest) -> int:
    """Return the number of rows that a request claims to have, before its elements are read.

    Raises:
        InvalidArgumentError: It has no tensors, or none whose shape begins with a number of rows.
    """
    if not request.inputs:
        raise errors.invalid("inputs", 0, "must hold tensors", errors.Reason.MISSING_FIELD)
    first = request.inputs[0]
    path = f'inputs["{first.name[:100]}"]'
    if not first.shape:
        raise malformed(f"{path}.shape", [], "must begin with the rows")
    _count(path, first.shape[:1])
    return first.shape[0]


def of_response(response: pb.ModelInferResponse) -> list[Tensor]:
    """Return the outputs of an answer.

    Raises:
        InvalidArgumentError: Names the tensor, the value and the rule.
    """
    return _read(response.outputs, response.raw_output_contents, "output")


def _read(
    entries: Sequence[Any], raws: Sequence[bytes], side: Side, check: Check | None = None
) -> list[Tensor]:
    if raws and len(raws) != len(entries):
        rule = f"must be {len(entries)}, one for each tensor of {side}s"
        raise malformed(f"raw_{side}_contents", len(raws), rule)
    names: set[str] = set()
    found = []
    for index, entry in enumerate(entries):
        path = f'{side}s["{entry.name[:100]}"]'
        if not entry.name or entry.name in names:
            raise malformed(f"{side}s[{index}].name", entry.name, "must be given, and only once")
        names.add(entry.name)
        datatype = _datatype(path, entry.datatype)
        shape = tuple(entry.shape)
        count = _count(path, shape)
        if check is not None:
            check(entry.name, shape)
        if not raws:
            array = _typed(path, entry, datatype, count)
        elif entry.contents.ListFields():
            # MLServer's own stubs send empty contents beside raw ones; elements are what clashes.
            held = entry.contents.ListFields()[0][0].name
            rule = f"must be empty, since raw_{side}_contents hold the elements"
            raise malformed(f"{path}.contents", held, rule)
        else:
            array = _raw(path, raws[index], datatype, shape, count)
        found.append(Tensor(entry.name, datatype, array.reshape(shape)))
    return found


def _datatype(path: str, name: str) -> Datatype:
    datatype = DATATYPES.get(name)
    if datatype is None:
        rule = f"must be one of {', '.join(DATATYPES)}"
        raise errors.invalid(f"{path}.datatype", name, rule, errors.Reason.WRONG_TYPE)
    return datatype


def _count(path: str, shape: Sequence[int]) -> int:
    if len(shape) > _MAX_AXES:
        raise malformed(f"{path}.shape", f"{len(shape)} axes", f"must be at most {_MAX_AXES}")
    for axis, size in enumerate(shape):
        # Beside a size of zero any other would cost its sender nothing.
        if not 0 <= size <= MAX_ROWS:
            raise malformed(f"{path}.shape[{axis}]", size, f"must be from 0 to {MAX_ROWS}")
    count = math.prod(shape)
    # numpy multiplies the other sizes even where one is zero.
    if (count or math.prod(size or 1 for size in shape)) > _MAX_ELEMENTS:
        raise malformed(f"{path}.shape", list(shape), f"must have at most {_MAX_ELEMENTS} elements")
    return count


def _typed(path: str, entry: Any, datatype: Datatype, count: int) -> AnyArray:
    contents = entry.contents
    for field in _FIELDS:
        if field != datatype.contents and len(getattr(contents, field)):
            rule = f"must be empty: {datatype.name} elements are " + (
                f"in {datatype.contents}" if datatype.contents else "raw"
            )
            raise malformed(f"{path}.contents.{field}", len(getattr(contents, field)), rule)
    elements = getattr(contents, datatype.contents) if datatype.contents else ()
    if len(elements) != count:
        rule = f"must be {count} for the shape {list(entry.shape)}"
        field = datatype.contents or "contents"
        raise malformed(f"{path}.contents.{field}", f"{len(elements)} elements", rule)
    if datatype is BYTES:
        return _objects(elements)
    array = np.array(elements, _CARRIERS.get(datatype.contents, datatype.wire))
    if array.dtype != datatype.wire:
        _check_range(path, array, datatype)
    return datatypes.native(array.astype(datatype.wire, copy=False), datatype)


_CARRIERS: Final = {"int_contents": np.dtype("<i4"), "uint_contents": np.dtype("<u4")}
"""Fields that carry narrower types too."""


def _check_range(path: str, array: AnyArray, datatype: Datatype) -> None:
    limits = np.iinfo(datatype.wire)
    outside = np.flatnonzero((array < limits.min) | (array > limits.max))
    if len(outside):
        at = int(outside[0])
        field = f"{path}.contents.{datatype.contents}[{at}]"
        rule = f"must be from {limits.min} to {limits.max}"
        raise errors.invalid(field, int(array[at]), rule, errors.Reason.WRONG_TYPE)


def _raw(path: str, raw: bytes, datatype: Datatype, shape: Shape, count: int) -> AnyArray:
    if datatype is BYTES:
        return _objects(_split(path, raw, count))
    expected = count * datatype.wire.itemsize
    if len(raw) != expected:
        rule = f"must be {expected} for {datatype.name}{list(shape)}"
        raise malformed(f"{path} raw", f"{len(raw)} bytes", rule)
    return datatypes.native(np.frombuffer(raw, datatype.wire), datatype)


def _split(path: str, raw: bytes, count: int) -> list[bytes]:
    """Return the elements of raw BYTES, each of which follows its length."""
    found: list[bytes] = []
    at, end = 0, len(raw)
    while at < end and len(found) < count:
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(raw, at)[0] if start <= end else end + 1
        if at > end:
            field = f"{path} raw element {len(found)}"
            raise malformed(field, f"{end} bytes", "ends before the length or the element does")
        found.append(raw[start:at])
    if len(found) != count or at != end:
        rule = f"must hold {count} elements, each after its length of 4 bytes, and nothing else"
        raise malformed(f"{path} raw", f"{end} bytes", rule)
    return found


def _objects(elements: Iterable[Any]) -> AnyArray:
    listed = list(elements)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def fill_request(
    request: pb.ModelInferRequest, tensors: Iterable[Tensor], *, is_raw: bool = True
) -> None:
    """Write the inputs of a request."""
    _write(request.inputs, request.raw_input_contents, tensors, is_raw)


def fill_response(
    response: pb.ModelInferResponse, tensors: Iterable[Tensor], *, is_raw: bool
) -> None:
    """Write the outputs of an answer, raw as its request was, or typed."""
    _write(response.outputs, response.raw_output_contents, tensors, is_raw)


def _write(entries: Any, raws: Any, tensors: Iterable[Tensor], is_raw: bool) -> None:
    for tensor in tensors:
        datatype, array = tensor.datatype, tensor.array
        entry = entries.add(name=tensor.name, datatype=datatype.name, shape=array.shape)
        if is_raw:
            raws.append(_bytes_of(array, datatype))
            continue
        if not datatype.contents:
            raise errors.invalid(
                tensor.name, datatype.name, "can only be sent raw", errors.Reason.WRONG_TYPE
            )
        elements = array.ravel().tolist()
        if datatype is BYTES:
            elements = [_encoded(each) for each in elements]
        getattr(entry.contents, datatype.contents).extend(elements)


def _bytes_of(array: AnyArray, datatype: Datatype) -> bytes:
    if datatype is not BYTES:
        return datatypes.wired(array, datatype).tobytes()
    parts = []
    for each in array.ravel().tolist():
        element = _encoded(each)
        parts += [_LENGTH.pack(len(element)), element]
    return b"".join(parts)


def _encoded(element: str | bytes) -> bytes:
    return element.encode() if isinstance(element, str) else element


def malformed(field: str, value: object, rule: str) -> errors.InvalidArgumentError:
    """Return the error for a tensor that does not have the form which the protocol demands."""
    return errors.invalid(field, value, rule, errors.Reason.MALFORMED_COLUMNS)
