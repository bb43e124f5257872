"""Small ONNX models for tests: written by hand, and converted from scikit-learn.

scikit-learn and skl2onnx are needed only by the functions that use them, and only in tests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

IR_VERSION = 10
OPSETS = (helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3))


def linear(
    weights: Sequence[float] = (1.0, 2.0), bias: float = 0.5, element: int = TensorProto.FLOAT
) -> bytes:
    """Return a model `score = X @ weights + bias` with an output [rows, 1]."""
    kind = helper.tensor_dtype_to_np_dtype(element)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["X", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["score"]),
        ],
        "linear",
        [helper.make_tensor_value_info("X", element, [None, len(weights)])],
        [helper.make_tensor_value_info("score", element, [None, 1])],
        [
            onnx.numpy_helper.from_array(np.array(weights, kind).reshape(-1, 1), "weights"),
            onnx.numpy_helper.from_array(np.array([bias], kind), "bias"),
        ],
    )
    return serialised(graph)


def identity(element: int, name: str = "X", width: int | None = 1) -> bytes:
    """Return a model that gives its input back as `Y`."""
    shape: list[int | None] = [None] if width is None else [None, width]
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["Y"])],
        "identity",
        [helper.make_tensor_value_info(name, element, shape)],
        [helper.make_tensor_value_info("Y", element, shape)],
    )
    return serialised(graph)


def counting() -> bytes:
    """Return a model `score = X` [rows, 1] that counts to the largest X first, a few µs each."""
    body = helper.make_graph(
        [
            helper.make_node("Sin", ["carried_in"], ["sine"]),
            helper.make_node("Mul", ["sine", "zero"], ["nothing"]),
            helper.make_node("Add", ["carried_in", "nothing"], ["carried_out"]),
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_in", TensorProto.FLOAT, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, [None, 1]),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["X"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["turns"], to=TensorProto.INT64),
            helper.make_node("Loop", ["turns", "condition", "X"], ["score"], body=body),
        ],
        "counting",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [
            onnx.numpy_helper.from_array(np.array(True), "condition"),
            onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ],
    )
    return serialised(graph)


def serialised(graph: onnx.GraphProto, **parts: Any) -> bytes:
    """Return the bytes of a model around a graph."""
    parts.setdefault("opset_imports", OPSETS)
    model = helper.make_model(graph, ir_version=IR_VERSION, **parts)
    return bytes(model.SerializeToString())


def with_output_width(model: bytes, width: int) -> bytes:
    """Return the model with its only output declared as [rows, width]."""
    changed = onnx.ModelProto.FromString(model)
    changed.graph.output[0].type.tensor_type.shape.dim[1].dim_value = width
    return bytes(changed.SerializeToString())


def with_external_data(model: bytes, location: str) -> bytes:
    """Return the model with its first initializer moved outside the file, as an attacker would."""
    changed = onnx.ModelProto.FromString(model)
    point_outside(changed.graph.initializer[0], location)
    return bytes(changed.SerializeToString())


def point_outside(tensor: onnx.TensorProto, location: str) -> None:
    """Make a tensor claim that its values lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def from_sklearn(
    estimator: Any, columns: Sequence[tuple[str, str]], *, zipmap: bool = False
) -> bytes:
    """Return the ONNX form of a fitted estimator.

    Args:
        estimator: The estimator or pipeline.
        columns: Name and element type (`float`, `double`, `int64`, `string`) of each input tensor;
            a name with a star and a number, as in `X*20`, makes one tensor of that width.
        zipmap: Leave the probabilities of a classifier as maps, as the converter does by itself.
    """
    import skl2onnx  # noqa: PLC0415, RUF100 — only tests have it.
    from skl2onnx.common import data_types, tree_ensemble  # noqa: PLC0415, RUF100

    kinds = {
        "float": data_types.FloatTensorType,
        "double": data_types.DoubleTensorType,
        "int64": data_types.Int64TensorType,
        "string": data_types.StringTensorType,
    }
    inputs = []
    for name, element in columns:
        name, _, width = name.partition("*")
        inputs.append((name, kinds[element]([None, int(width or 1)])))
    original = tree_ensemble.add_node

    def add_node(*arguments: Any, **named: Any) -> Any:
        # skl2onnx passes numpy's bool on, which protobuf no longer takes for an int.
        tracks = named.get("nodes_missing_value_tracks_true", 0)
        return original(*arguments, **{**named, "nodes_missing_value_tracks_true": int(tracks)})

    tree_ensemble.add_node = add_node
    try:
        is_classifier = hasattr(estimator, "classes_")
        options = {id(estimator): {"zipmap": zipmap}} if is_classifier else None
        model = skl2onnx.to_onnx(estimator, initial_types=inputs, options=options)
    finally:
        tree_ensemble.add_node = original
    return bytes(model.SerializeToString())
