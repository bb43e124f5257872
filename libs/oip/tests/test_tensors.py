"""What messages hold is read exactly, and what breaks the protocol is refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_oip import datatypes, tensors
from setpoint_oip.datatypes import BYTES, DATATYPES
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.tensors import Tensor
from setpoint_runtime import errors

NUMBERS = [name for name in DATATYPES if name != "BYTES"]
LIMITS = {
    name: [np.iinfo(each.wire).min, 0, 1, np.iinfo(each.wire).max]
    for name, each in DATATYPES.items()
    if each.wire.kind in "iu" and name not in ("BF16", "BOOL")
}
FLOATS = [0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 2.0**-14]


def example(name: str) -> Tensor:
    """Makes a tensor with the extremes of a datatype, [rows, 1]."""
    datatype = DATATYPES[name]
    if name == "BOOL":
        array = np.array([True, False])
    elif name == "BYTES":
        array = np.array([b"", b"\x00\xff", "Zoë".encode()], object)
    elif name in LIMITS:
        array = np.array(LIMITS[name], datatype.wire)
    else:
        array = np.array(FLOATS, np.float32 if name == "BF16" else datatype.wire)
    return Tensor("x", datatype, array.reshape(-1, 1))


def request(
    shape: list[int], datatype: str, raw: bytes | None = None, **contents: list[object]
) -> pb.ModelInferRequest:
    """Makes a request with one input."""
    made = pb.ModelInferRequest()
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, elements in contents.items():
        getattr(made.inputs[0].contents, field).extend(elements)
    if raw is not None:
        made.raw_input_contents.append(raw)
    return made


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("name", list(DATATYPES))
def test_tensor_survives_the_wire(name: str, is_raw: bool) -> None:
    """Proves that every datatype arrives as it was sent, raw and typed; half floats only raw."""
    sent = example(name)
    response = pb.ModelInferResponse()
    if not is_raw and not sent.datatype.contents:
        with pytest.raises(errors.InvalidArgumentError, match="can only be sent raw"):
            tensors.fill_response(response, [sent], is_raw=False)
        return
    tensors.fill_response(response, [sent], is_raw=is_raw)
    parsed = pb.ModelInferResponse.FromString(response.SerializeToString())
    assert bool(parsed.raw_output_contents) is is_raw
    [arrived] = tensors.of_response(parsed)
    assert arrived.datatype is sent.datatype
    assert arrived.array.shape == sent.array.shape
    if name == "BYTES":
        assert arrived.array.tolist() == sent.array.tolist()
    else:
        assert arrived.array.dtype == sent.array.dtype
        np.testing.assert_array_equal(arrived.array, sent.array)


def test_raw_bytes_are_those_of_other_servers() -> None:
    """Proves that raw contents are little-endian, row by row, and that BYTES follow a length."""
    made = pb.ModelInferRequest()
    numbers = Tensor("n", DATATYPES["INT16"], np.array([[1, 2], [-1, 256]], "<i2"))
    texts = Tensor("t", BYTES, np.array(["ab", ""], object))
    tensors.fill_request(made, [numbers, texts])
    assert made.raw_input_contents[0] == b"\x01\x00\x02\x00\xff\xff\x00\x01"
    assert made.raw_input_contents[1] == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"
    assert list(made.inputs[0].shape) == [2, 2]


def test_brain_floats_are_the_upper_half() -> None:
    """Proves that BF16 is the upper half of a float32, rounded to the nearest, ties to even."""
    values = np.array([1.0, -2.5, 1.0 + 2**-8, 1.0 + 3 * 2**-8, np.nan], "<f4")
    sent = datatypes.wired(values, datatypes.BF16)
    assert sent[:4].tolist() == [0x3F80, 0xC020, 0x3F80, 0x3F82]
    back = datatypes.native(sent, datatypes.BF16)
    assert back[:2].tolist() == [1.0, -2.5]
    assert np.isnan(back[4])


@given(st.lists(st.binary(max_size=5), max_size=8), st.data())
def test_bytes_are_read_or_refused(elements: list[bytes], data: st.DataObject) -> None:
    """Proves that raw BYTES are read whole, and that one byte less or more is refused."""
    made = pb.ModelInferRequest()
    array = np.empty(len(elements), object)
    array[:] = elements
    tensors.fill_request(made, [Tensor("x", BYTES, array)])
    assert tensors.of_request(made)[0].array.tolist() == elements
    raw = made.raw_input_contents[0]
    cut = data.draw(st.integers(0, max(0, len(raw) - 1)))
    for broken in (raw[:cut], raw + b"\0") if elements else (b"\0",):
        with pytest.raises(errors.InvalidArgumentError):
            tensors.of_request(request([len(elements)], "BYTES", broken))


@given(st.binary(max_size=40), st.integers(0, 4))
def test_any_bytes_are_elements_or_an_error(raw: bytes, count: int) -> None:
    """Proves that no bytes make reading fail in another way than by an error of the request."""
    try:
        [found] = tensors.of_request(request([count], "BYTES", raw))
    except errors.InvalidArgumentError:
        return
    assert sum(4 + len(each) for each in found.array.tolist()) == len(raw)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (request([2, -1], "FP32", b""), r'inputs\["x"\].shape\[1\]: -1 must be from 0'),
        (request([1 << 40], "FP32", b""), r"must be from 0 to 16777216"),
        (request([1] * 65, "FP32", b"1234"), r"shape: '65 axes' must be at most 32"),
        (request([0] + [1 << 24] * 3, "FP32", b""), r"must have at most \d+ elements"),
        (request([2], "FP8", b""), r"datatype: 'FP8' must be one of BOOL"),
        (request([2], "FP32", b"1234567"), r"'7 bytes' must be 8 for FP32\[2\]"),
        (request([2], "FP32", fp32_contents=[1.0]), r"'1 elements' must be 2"),
        (request([1], "FP32", fp64_contents=[1.0]), r"fp64_contents: 1 must be empty"),
        (request([1], "FP16", fp32_contents=[1.0]), r"must be empty: FP16 elements are raw"),
        (request([1], "INT8", int_contents=[200]), r"int_contents\[0\]: 200 must be from -128"),
        (request([1], "UINT8", uint_contents=[256]), r"256 must be from 0 to 255"),
        (
            request([1], "FP32", b"1234", fp32_contents=[1.0]),
            r"contents: 'fp32_contents' must be empty",
        ),
        (request([1], "FP32"), r"'0 elements' must be 1"),
    ],
)
def test_broken_tensor_is_refused(message: pb.ModelInferRequest, said: str) -> None:
    """Proves that shape, datatype, count and form are checked, and named in the error."""
    with pytest.raises(errors.InvalidArgumentError, match=said):
        tensors.of_request(message)


def test_empty_contents_beside_raw_ones_are_no_contents() -> None:
    """Proves that a client that always sets the message for typed contents is understood."""
    message = request([1], "FP32", np.float32(1.5).tobytes())
    message.inputs[0].contents.SetInParent()
    assert message.inputs[0].HasField("contents")
    assert tensors.of_request(message)[0].array.tolist() == [1.5]


def test_number_of_raw_contents_must_fit() -> None:
    """Proves that raw contents are one for each tensor."""
    message = request([1], "FP32", b"1234")
    message.raw_input_contents.append(b"1234")
    with pytest.raises(errors.InvalidArgumentError, match="raw_input_contents: 2 must be 1"):
        tensors.of_request(message)


def test_names_must_differ() -> None:
    """Proves that a tensor is sent once."""
    message = request([1], "FP32", b"1234")
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    message.raw_input_contents.append(b"1234")
    with pytest.raises(errors.InvalidArgumentError, match="must be given, and only once"):
        tensors.of_request(message)
