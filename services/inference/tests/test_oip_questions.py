"""Whatever a caller sends is an answer or an error of its own, never a defect."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setpoint_artifacts.signature import Missing, TensorSpec
from setpoint_columns.dtypes import NUMPY_TYPES, DataType
from setpoint_inference.convert import oip
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_oip.datatypes import DATATYPES
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_runtime import errors

MANIFEST = Manifest(
    VersionKey("late", 1),
    "0" * 64,
    1,
    inputs=(
        TensorSpec("X", DataType.FLOAT32, ("a", "b"), (Missing("b", None),)),
        TensorSpec("t", DataType.STRING, ("t",)),
        TensorSpec("n", DataType.INT64, ("n",)),
    ),
    outputs=(TensorSpec("Y", DataType.FLOAT32, ("p", "q")),),
)
TYPES = {spec.name: NUMPY_TYPES[spec.dtype] for spec in MANIFEST.inputs}

shapes = st.lists(st.integers(-1, 3), max_size=3)
contents = st.builds(
    pb.InferTensorContents,
    fp32_contents=st.lists(st.floats(width=32), max_size=4),
    fp64_contents=st.lists(st.floats(), max_size=2),
    int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    uint64_contents=st.lists(st.integers(0, 2**64 - 1), max_size=2),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
    bool_contents=st.lists(st.booleans(), max_size=2),
    bytes_contents=st.lists(st.binary(max_size=3), max_size=3),
)
inputs = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["X", "a", "b", "t", "n", "", "other"]),
    datatype=st.sampled_from([*DATATYPES, "FP9"]),
    shape=shapes,
    contents=st.none() | contents,
)
anything = st.builds(
    pb.ModelInferRequest,
    inputs=st.lists(inputs, max_size=4),
    raw_input_contents=st.just([]) | st.lists(st.binary(max_size=24), max_size=4),
)


@st.composite
def nearly_right(draw: st.DrawFn) -> pb.ModelInferRequest:
    """Make a request of the right tensors whose elements and sizes may be off."""
    rows = draw(st.integers(0, 3))
    request = pb.ModelInferRequest()
    for name, datatype, width, size in (
        ("X", "FP32", 2, 4),
        ("t", "BYTES", 1, 5),
        ("n", "INT64", 1, 8),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[rows, width])
        count = rows * width
        if datatype == "BYTES":
            raw = b"".join(
                b"\x01\x00\x00\x00" + draw(st.binary(min_size=1, max_size=1)) for _ in range(rows)
            )
        else:
            raw = draw(st.binary(min_size=count * size, max_size=count * size))
        request.raw_input_contents.append(raw)
    if draw(st.booleans()):
        at = draw(st.integers(0, 2))
        request.raw_input_contents[at] = request.raw_input_contents[at][: draw(st.integers(0, 9))]
    return request


@settings(max_examples=200, deadline=None)
@given(anything | nearly_right())
def test_any_request_is_packed_or_refused(request: pb.ModelInferRequest) -> None:
    """Proves that what is packed has the manifest's types and shapes, and all else is refused."""
    try:
        question = oip.Question(request)
        feeds = question.pack(MANIFEST)
    except errors.InvalidArgumentError:
        return
    assert feeds.keys() == TYPES.keys()
    for spec in MANIFEST.inputs:
        array = feeds[spec.name]
        assert array.shape == (question.rows, len(spec.columns))
        assert array.dtype == (object if spec.dtype is DataType.STRING else TYPES[spec.name])
    assert not np.isnan(feeds["X"][:, 1]).any(), "missing values of b are refused"


@pytest.mark.parametrize(
    "version", ["0", "-1", "\u0663", "1_0", str(1 << 63), "9" * 30, "1" * 5_000]
)
def test_version_is_refused(version: str) -> None:
    """Proves that what the registry cannot number is refused here, however long it is."""
    with pytest.raises(errors.InvalidArgumentError, match="must be a whole number from 1"):
        oip.key_from_names("m", version)


def test_version_is_read() -> None:
    """Proves that every number of the contract is read."""
    assert oip.key_from_names("m", "007") == VersionKey("m", 7)
    assert oip.key_from_names("m", str((1 << 63) - 1)).version == (1 << 63) - 1
