import pytest

from setpoint_artifacts import refusal, signature
from setpoint_artifacts.signature import Signature, Tensor, TensorSpec
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors

GRAPH = Signature(
    (Tensor("X", "float", (None, 2)), Tensor("carrier", "string", (None, 1))),
    (Tensor("label", "int64", (None,)), Tensor("probabilities", "float", (None, 2))),
)
X = TensorSpec("X", DataType.FLOAT32, ("a", "b"))
CARRIER = TensorSpec("carrier", DataType.STRING, ("carrier",))
LABEL = TensorSpec("label", DataType.INT64, ("label",))
PROBABILITIES = TensorSpec("probabilities", DataType.FLOAT32, ("no", "yes"))


def mismatch(inputs: list[TensorSpec], outputs: list[TensorSpec], graph: Signature = GRAPH) -> str:
    with pytest.raises(refusal.RefusedError) as caught:
        signature.check(graph, inputs, outputs)
    assert caught.value.reason == errors.Reason.SIGNATURE_MISMATCH
    return caught.value.message


def test_check_matching() -> None:
    """A manifest that says what the graph has is accepted, in any order and with fewer outputs."""
    signature.check(GRAPH, [X, CARRIER], [LABEL, PROBABILITIES])
    signature.check(GRAPH, [CARRIER, X], [PROBABILITIES])


def test_check_timestamp_as_integers() -> None:
    """Timestamps travel as 64-bit integers."""
    graph = Signature((Tensor("t", "int64", (None, 1)),), ())
    signature.check(graph, [TensorSpec("t", DataType.TIMESTAMP, ("at",))], [])


def test_check_open_shapes() -> None:
    """Sizes that the graph leaves open fit any manifest."""
    graph = Signature((Tensor("X", "float", (None, None)),), (Tensor("y", "double", None),))
    signature.check(graph, [X], [TensorSpec("y", DataType.FLOAT64, ("p", "q", "r"))])


@pytest.mark.parametrize(
    ("inputs", "outputs", "named", "rule"),
    [
        ([X], [LABEL], "'carrier'", "missing in the manifest"),
        ([X, CARRIER, TensorSpec("Z", DataType.BOOL, ("z",))], [], "'Z'", "not in the graph"),
        ([X, CARRIER], [TensorSpec("score", DataType.FLOAT32, ("s",))], "'score'", "'label'"),
        ([TensorSpec("X", DataType.FLOAT64, ("a", "b")), CARRIER], [], "'X'", "not double"),
        ([TensorSpec("X", DataType.FLOAT32, ("a",)), CARRIER], [], "'X'", "2 columns"),
        ([X, CARRIER], [TensorSpec("label", DataType.INT64, ("l", "m"))], "'label'", "[rows, 2]"),
    ],
)
def test_check_names_tensor(
    inputs: list[TensorSpec], outputs: list[TensorSpec], named: str, rule: str
) -> None:
    """A difference is refused with the name of the tensor and what differs."""
    message = mismatch(inputs, outputs)
    assert named in message
    assert rule in message


def test_check_fixed_rows() -> None:
    """A graph for exactly one row cannot serve batches."""
    assert "fixed number of rows" in mismatch(
        [X], [], Signature((Tensor("X", "float", (1, 2)),), ())
    )


def test_check_three_dimensions() -> None:
    """Images and the like have no columns."""
    assert "[rows, 3, 3]" in mismatch([X], [], Signature((Tensor("X", "float", (None, 3, 3)),), ()))


def test_check_sequence() -> None:
    """Sequences are refused, with what is not."""
    graph = Signature((), (Tensor("probabilities", "sequence", None),))
    assert "ZipMap" in mismatch([], [PROBABILITIES], graph)
