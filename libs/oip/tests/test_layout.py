"""Tensors become the columns of a model, however they are cut, and back."""

import numpy as np
import pytest

from setpoint_columns import DataType
from setpoint_oip import layout
from setpoint_oip.datatypes import BYTES, DATATYPES, AnyArray
from setpoint_oip.layout import Held, Layout
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.tensors import Tensor
from setpoint_runtime import errors

INPUTS = Layout(
    [
        Held("X", DataType.FLOAT32, ("a", "b")),
        Held("kind", DataType.STRING, ("kind",)),
        Held("at", DataType.TIMESTAMP, ("at",)),
    ]
)


def tensor(name: str, array: AnyArray, datatype: str = "FP32") -> Tensor:
    """Makes a tensor."""
    return Tensor(name, DATATYPES[datatype], array)


def wanted(*names: str) -> list[pb.ModelInferRequest.InferRequestedOutputTensor]:
    """Asks for outputs."""
    return [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_columns_may_come_alone(shape: tuple[int, ...]) -> None:
    """Proves that a column may be sent as [rows] and as [rows, 1]."""
    given = [
        tensor("b", np.array([3, 4], "f4").reshape(shape)),
        tensor("a", np.array([1, 2], "f4").reshape(shape)),
    ]
    found = INPUTS.columns(given)
    assert found["a"].to_list() == [1.0, 2.0]
    assert found["b"].to_list() == [3.0, 4.0]


def test_columns_may_come_together() -> None:
    """Proves that a matrix under the tensor's name is its columns side by side."""
    found = INPUTS.columns([tensor("X", np.array([[1, 2], [3, 4]], "f4"))])
    assert {name: found[name].to_list() for name in found.names} == {"a": [1, 3], "b": [2, 4]}


@pytest.mark.parametrize(
    ("datatype", "values", "dtype"),
    [
        ("INT8", np.array([-1], "i1"), DataType.INT32),
        ("UINT32", np.array([4_000_000_000], "u4"), DataType.INT64),
        ("UINT64", np.array([7], "u8"), DataType.INT64),
        ("FP16", np.array([1.5], "f2"), DataType.FLOAT32),
        ("FP64", np.array([0.1], "f8"), DataType.FLOAT64),
        ("BOOL", np.array([True]), DataType.BOOL),
    ],
)
def test_datatypes_widen_to_columns(datatype: str, values: AnyArray, dtype: DataType) -> None:
    """Proves that a datatype without a column of its own keeps its values in a wider one."""
    column = INPUTS.columns([tensor("a", values, datatype)])["a"]
    assert column.dtype is dtype
    assert column.to_list() == values.tolist()


def test_times_are_microseconds() -> None:
    """Proves that an INT64 tensor can be a time where the model takes one."""
    column = INPUTS.columns([tensor("at", np.array([5], "i8"), "INT64")])["at"]
    assert column.dtype is DataType.TIMESTAMP


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "inputs: 0 must hold tensors"),
        ([tensor("c", np.ones(1, "f4"))], r"'c' is not known; there are 'X', 'kind', 'at', 'a'"),
        ([tensor("X", np.ones((2, 3), "f4"))], r"\[2, 3\] must be \[rows, 2\]"),
        ([tensor("X", np.ones(2, "f4"))], r"\[2\] must be \[rows, 2\]"),
        ([tensor("a", np.ones((2, 2), "f4"))], r"\[2, 2\] must be \[rows\] or \[rows, 1\]"),
        ([tensor("a", np.ones((), "f4"))], r"must begin with the rows"),
        (
            [tensor("a", np.ones(2, "f4")), tensor("b", np.ones(3, "f4"))],
            r'inputs\["b"\].shape: \[3\] must have 2 rows, as inputs\["a"\]',
        ),
        (
            [tensor("X", np.ones((1, 2), "f4")), tensor("a", np.ones(1, "f4"))],
            r"holds the column 'a', which another tensor holds too",
        ),
        (
            [tensor("kind", np.array([b"\xff"], object), "BYTES")],
            r'inputs\["kind"\]\[0\]: .* must be text of valid UTF-8',
        ),
        (
            [tensor("a", np.array([1 << 63], "u8"), "UINT64")],
            r"9223372036854775808 must be at most",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(given: list[Tensor], said: str) -> None:
    """Proves that names, shapes and rows are checked, and named in the error."""
    with pytest.raises(errors.InvalidArgumentError, match=said):
        INPUTS.columns(given)


def test_outputs_come_as_asked() -> None:
    """Proves that outputs come in the order of the request, as tensors or as columns."""
    outputs = Layout(
        [Held("label", DataType.INT64, ("label",)), Held("p", DataType.FLOAT32, ("p0", "p1"))]
    )
    values = {"label": np.array([1]), "p0": np.array([0.25], "f4"), "p1": np.array([0.75], "f4")}
    made = layout.gathered(outputs.wanted(wanted("p1", "p")), values, 1)
    assert [(each.name, each.array.tolist()) for each in made] == [
        ("p1", [[0.75]]),
        ("p", [[0.25, 0.75]]),
    ]
    assert [each.name for each in outputs.wanted([])] == ["label", "p"]


def test_texts_are_gathered_as_objects() -> None:
    """Proves that text columns become BYTES."""
    specs = [Held("t", DataType.STRING, ("t",))]
    [made] = layout.gathered(specs, {"t": np.array(["ab", "c"], object)}, 2)
    assert made.datatype is BYTES
    assert made.array.tolist() == [["ab"], ["c"]]


def test_outputs_that_cannot_be_are_refused() -> None:
    """Proves that unknown, doubled and otherwise wanted outputs are errors, not other answers."""
    outputs = Layout([Held("p", DataType.FLOAT32, ("p0", "p1"))])
    with pytest.raises(errors.InvalidArgumentError, match=r"outputs\[1\].name: 'q' is not known"):
        outputs.wanted(wanted("p", "q"))
    with pytest.raises(errors.InvalidArgumentError, match="must be asked for once"):
        outputs.wanted(wanted("p", "p"))
    classes = wanted("p")
    classes[0].parameters["classification"].int64_param = 1
    with pytest.raises(errors.UnimplementedError, match="classes are not served"):
        outputs.wanted(classes)


def test_metadata_names_the_models_tensors() -> None:
    """Proves that tensors are described as the model has them, rows open."""
    assert [(each.name, each.datatype, list(each.shape)) for each in INPUTS.metadata()] == [
        ("X", "FP32", [-1, 2]),
        ("kind", "BYTES", [-1, 1]),
        ("at", "INT64", [-1, 1]),
    ]
