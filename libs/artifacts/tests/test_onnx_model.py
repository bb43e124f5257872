import contextlib
import json
import os
import pickle
import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from setpoint_artifacts import onnx_model, refusal, testing
from setpoint_artifacts.signature import Signature, Tensor
from setpoint_runtime import errors

LINEAR = testing.linear()


def refused(data: bytes, reason: errors.Reason) -> str:
    with pytest.raises(refusal.RefusedError) as caught:
        onnx_model.inspect(data)
    assert caught.value.reason == reason
    return caught.value.message


def test_inspect_signature() -> None:
    """The names, types and shapes of inputs and outputs are read from the graph."""
    assert onnx_model.inspect(LINEAR) == Signature(
        (Tensor("X", "float", (None, 2)),), (Tensor("score", "float", (None, 1)),)
    )


def test_inspect_initializer_as_input() -> None:
    """An initializer that an old file lists as an input is none that a run must give."""
    model = onnx.ModelProto.FromString(LINEAR)
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1]))
    assert [each.name for each in onnx_model.inspect(model.SerializeToString()).inputs] == ["X"]


def test_inspect_sklearn_classifier() -> None:
    """A converted gradient boosting classifier passes and has a label and probabilities."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    values = np.random.default_rng(0).normal(size=(200, 3))
    estimator = HistGradientBoostingClassifier(max_iter=3).fit(values, values[:, 0] > 0)
    found = onnx_model.inspect(testing.from_sklearn(estimator, [("X*3", "float")]))
    assert found.inputs == (Tensor("X", "float", (None, 3)),)
    assert found.outputs[1] == Tensor("probabilities", "float", (None, 2))


def test_inspect_zipmap() -> None:
    """Maps of a converter's own making are read as the probabilities that they were, with labels."""
    from sklearn.linear_model import LogisticRegression

    values = np.random.default_rng(0).normal(size=(60, 2))
    labels = np.array(["on time", "late", "Köln"])[np.arange(60) % 3]
    estimator = LogisticRegression().fit(values, labels)
    found = onnx_model.inspect(testing.from_sklearn(estimator, [("X*2", "float")], zipmap=True))
    classes = ("Köln", "late", "on time")
    assert found.outputs[1] == Tensor("output_probability", "float", (None, 3), classes)
    assert Signature.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x08\x0a", LINEAR[: len(LINEAR) // 2], os.urandom(500)]
)
def test_inspect_unreadable(data: bytes) -> None:
    """Bytes that are no ONNX model are refused as such."""
    assert "ONNX" in refused(data, errors.Reason.INVALID_ARTIFACT)


def test_inspect_pickle() -> None:
    """A pickle is refused by name, not as unreadable ONNX."""
    assert "pickle" in refused(pickle.dumps({}), errors.Reason.EXECUTABLE_ARTIFACT)


LOCATIONS = [
    "../../etc/passwd",
    "/etc/passwd",
    "weights.bin",
    "",
    "a/../../b",
    "*/_ORT_MEM_ADDR_/*",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_inspect_external_initializer(location: str) -> None:
    """External data is refused wherever it points, and the location is shown."""
    message = refused(testing.with_external_data(LINEAR, location), errors.Reason.INVALID_ARTIFACT)
    assert "external data" in message
    assert repr(location) in message


def in_constant(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def in_subgraph(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], []
    )
    outer = helper.make_graph(
        [helper.make_node("If", ["x"], ["y"], then_branch=inner)], "o", [], []
    )
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], else_branch=outer))


def in_subgraph_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], else_branch=inner))


def in_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(
        helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 17)])
    )


def in_function_default(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    function = helper.make_function("own", "f", [], [], [], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("a", tensor))
    model.functions.append(function)


def in_tensor_list(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(helper.make_node("Custom", [], [], tensors=[tensor]))


def in_sparse(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def in_training(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(tensor)


PLACES = [
    in_constant,
    in_subgraph,
    in_subgraph_initializer,
    in_function,
    in_function_default,
    in_tensor_list,
    in_sparse,
    in_training,
]


@pytest.mark.parametrize("place", PLACES)
def test_inspect_external_anywhere(
    place: Callable[[onnx.ModelProto, onnx.TensorProto], None],
) -> None:
    """External data is found in attributes, subgraphs, functions, sparse tensors, training."""
    tensor = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    testing.point_outside(tensor, "../secret")
    model = onnx.ModelProto.FromString(LINEAR)
    place(model, tensor)
    message = refused(model.SerializeToString(), errors.Reason.INVALID_ARTIFACT)
    assert "'hidden'" in message
    assert "'../secret'" in message


def test_inspect_location_without_flag() -> None:
    """A location is refused even when the tensor does not say that it is external."""
    model = onnx.ModelProto.FromString(LINEAR)
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "elsewhere"
    assert "elsewhere" in refused(model.SerializeToString(), errors.Reason.INVALID_ARTIFACT)


def graph_with(*nodes: onnx.NodeProto) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [*testing.OPSETS, helper.make_opsetid("evil.corp", 1), helper.make_opsetid("own", 1)]
    return testing.serialised(graph, opset_imports=opsets)


def test_inspect_custom_domain() -> None:
    """An operator that onnxruntime does not bring is refused by name and domain."""
    data = graph_with(helper.make_node("Backdoor", ["X"], ["Y"], domain="evil.corp"))
    message = refused(data, errors.Reason.INVALID_ARTIFACT)
    assert "'Backdoor'" in message
    assert "'evil.corp'" in message


def test_inspect_own_function_domain() -> None:
    """A domain that the model's own functions define is no custom operator."""
    model = onnx.ModelProto.FromString(
        graph_with(helper.make_node("f", ["X"], ["Y"], domain="own"))
    )
    body = [helper.make_node("Identity", ["a"], ["b"])]
    model.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    assert onnx_model.inspect(model.SerializeToString()).inputs[0].name == "X"


def test_inspect_file_operator() -> None:
    """An operator that reads files by path is refused."""
    data = graph_with(helper.make_node("EPContext", ["X"], ["Y"], domain="com.microsoft"))
    assert "EPContext" in refused(data, errors.Reason.INVALID_ARTIFACT)


def test_inspect_unknown_standard_operator() -> None:
    """A standard domain does not make an invented operator known."""
    data = graph_with(helper.make_node("NoSuchThing", ["X"], ["Y"]))
    assert "NoSuchThing" in refused(data, errors.Reason.INVALID_ARTIFACT)


def test_inspect_undefined_input() -> None:
    """A node that reads what nobody writes makes the model invalid."""
    data = graph_with(helper.make_node("Identity", ["nowhere"], ["Y"]))
    assert "nowhere" in refused(data, errors.Reason.INVALID_ARTIFACT)


def test_inspect_deep_nesting() -> None:
    """Nesting beyond protobuf's depth is refused without exhausting the stack."""
    data = b"\x0a\x00"
    for _ in range(3000):
        # Attribute g (6) of a node attribute (5) of a node (1).
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + length(len(data)) + data
    refused(b"\x08\x0a\x3a" + length(len(data)) + data, errors.Reason.INVALID_ARTIFACT)


def length(value: int) -> bytes:
    """Return a protobuf varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_inspect_many_nodes_quickly() -> None:
    """Ten thousand nodes are checked in seconds, not minutes."""
    nodes = [helper.make_node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(10_000)]
    nodes[0].input[0], nodes[-1].output[0] = "X", "Y"
    # Of the processor: what else the machine does is not counted.
    started = time.process_time()
    onnx_model.inspect(graph_with(*nodes))
    assert time.process_time() - started < 5


def test_inspect_loops() -> None:
    """A graph whose run may take any time is known as such."""
    assert onnx_model.inspect(testing.counting()).has_loops
    assert not onnx_model.inspect(LINEAR).has_loops


def test_inspect_map_output() -> None:
    """An output that is no tensor is named as what it is, for the comparison with a manifest."""
    model = onnx.ModelProto.FromString(LINEAR)
    output = model.graph.output[0]
    map_type = output.type.sequence_type.elem_type.map_type
    map_type.key_type = TensorProto.INT64
    map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    assert onnx_model.inspect(model.SerializeToString()).outputs[0].element == "sequence"


@settings(max_examples=200)
@given(st.data())
def test_inspect_mutated(data: st.DataObject) -> None:
    """Changed bytes are accepted or refused, never anything else."""
    changed = bytearray(LINEAR)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(refusal.RefusedError):
        onnx_model.inspect(bytes(changed))
