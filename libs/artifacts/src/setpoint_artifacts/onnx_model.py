"""ONNX read from memory, without following anything the file points at.

External data is how a model file names other files, and it has been a hole in every loader that
followed it. So the whole message is searched for it, in whatever graph, attribute or function it
hides, before anything else looks at the model.
"""

import mmap
from collections.abc import Iterator
from typing import Final

import onnx
from google.protobuf import message as protobuf_message
from onnx import checker

from setpoint_artifacts import formats, refusal
from setpoint_artifacts.signature import Signature, Tensor
from setpoint_runtime import errors

KNOWN_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that onnxruntime brings along; other operators would need code from elsewhere."""

_FILE_OPERATORS: Final = frozenset({"EPContext"})
"""Operators that read files of their own; no served model needs them."""

_LOOPS: Final = frozenset({"Loop", "Scan"})

_MAX_NAME_LENGTH: Final = 256
_SHOWN_ERROR_LENGTH: Final = 300

_ELEMENTS: Final = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
_VALUE_KINDS: Final = {
    "sequence_type": "sequence",
    "map_type": "map",
    "optional_type": "optional",
    "sparse_tensor_type": "sparse tensor",
    None: "nothing",
}


def inspect(data: bytes | mmap.mmap) -> Signature:
    """Check an artifact that claims to be ONNX and return what it takes and gives.

    Raises:
        RefusedError: EXECUTABLE_ARTIFACT for another format, by its name; INVALID_ARTIFACT for
            what is no readable model, points to external data, or needs unknown operators.
    """
    formats.refuse_unserved(data)
    model = _parse(data)
    try:
        _refuse_external_data(model)
        _refuse_unknown_operators(model)
        found = _signature(model)
        # The checker makes copies of its own, so this one goes first.
        del model
        _check_structure(data if isinstance(data, bytes) else data[:])
        return found
    except UnicodeError:
        # The parser lets names through that are no UTF-8; reading them is what fails.
        raise _invalid("has a name that is no valid UTF-8") from None


def _parse(data: bytes | mmap.mmap) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        with memoryview(data) as content:
            model.ParseFromString(content)  # type: ignore[arg-type]  # it takes any buffer
    except protobuf_message.DecodeError:
        raise _invalid("cannot be read as ONNX") from None
    if not model.HasField("graph") or not model.graph.node or not model.ir_version:
        raise _invalid("cannot be read as ONNX: there is no graph in it")
    return model


def _messages(root: protobuf_message.Message) -> Iterator[protobuf_message.Message]:
    """Yield every message below one, without recursion: the depth is the file's choice."""
    waiting = [root]
    while waiting:
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is None:
                continue
            if field.is_repeated:
                waiting.extend(value)
            else:
                waiting.append(value)


def _refuse_external_data(model: onnx.ModelProto) -> None:
    for each in _messages(model):
        if not isinstance(each, onnx.TensorProto):
            continue
        if each.data_location == onnx.TensorProto.EXTERNAL or each.external_data:
            locations = [entry.value for entry in each.external_data if entry.key == "location"]
            where = repr(locations[0][:80]) if locations else "another file"
            raise _invalid(
                f"has the values of tensor {each.name[:80]!r} outside the file, in {where};"
                " external data is refused"
            )


def _refuse_unknown_operators(model: onnx.ModelProto) -> None:
    known = KNOWN_DOMAINS | {function.domain for function in model.functions}
    for each in _messages(model):
        if not isinstance(each, onnx.NodeProto):
            continue
        if each.domain not in known:
            raise _invalid(
                f"uses the operator {each.op_type[:80]!r} of the domain {each.domain[:80]!r},"
                " which onnxruntime does not have"
            )
        if each.op_type in _FILE_OPERATORS:
            raise _invalid(f"uses the operator {each.op_type!r}, which reads other files")


def _check_structure(content: bytes) -> None:
    """Let ONNX's own checker look for undefined names, unknown operators and wrong attributes."""
    try:
        checker.check_model(content)
    except checker.ValidationError as error:
        first = str(error).strip().splitlines()[0][:_SHOWN_ERROR_LENGTH]
        raise _invalid(f"is no valid ONNX model: {first}") from None


def _signature(model: onnx.ModelProto) -> Signature:
    graph = model.graph
    # Up to IR version 3 every initializer was listed as an input too; a run need not give those.
    given = {each.name for each in graph.initializer}
    given.update(each.values.name for each in graph.sparse_initializer)
    maps = {
        node.output[0]: node
        for node in graph.node
        if (node.domain, node.op_type) == ("ai.onnx.ml", "ZipMap") and node.output
    }
    return Signature(
        tuple(_tensor(each) for each in graph.input if each.name not in given),
        tuple(
            _mapped(each, maps[each.name]) if each.name in maps else _tensor(each)
            for each in graph.output
        ),
        has_loops=any(
            isinstance(each, onnx.NodeProto) and each.op_type in _LOOPS for each in _messages(model)
        ),
    )


def _mapped(info: onnx.ValueInfoProto, node: onnx.NodeProto) -> Tensor:
    """Return the probabilities that a ZipMap at the end of a classifier makes maps of."""
    classes: list[int | str] = []
    for attribute in node.attribute:
        classes += attribute.ints or [text.decode() for text in attribute.strings]
    if not classes:
        return _tensor(info)
    return Tensor(info.name, "float", (None, len(classes)), tuple(classes))


def _tensor(info: onnx.ValueInfoProto) -> Tensor:
    if len(info.name) > _MAX_NAME_LENGTH:
        raise _invalid("has a tensor with an overlong name")
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return Tensor(info.name, _VALUE_KINDS.get(kind, "nothing"), None)
    tensor = info.type.tensor_type
    element = _ELEMENTS.get(tensor.elem_type, f"the unknown type {tensor.elem_type}")
    if not tensor.HasField("shape"):
        return Tensor(info.name, element, None)
    sizes = (
        each.dim_value if each.HasField("dim_value") and each.dim_value > 0 else None
        for each in tensor.shape.dim
    )
    return Tensor(info.name, element, tuple(sizes))


def _invalid(what: str) -> refusal.RefusedError:
    return refusal.RefusedError(errors.Reason.INVALID_ARTIFACT, f"the artifact {what}")
