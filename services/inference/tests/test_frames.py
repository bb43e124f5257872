import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from setpoint_inference.adapters import frames
from setpoint_inference.adapters.frames import Expected

KINDS = ("<f4", "<f8", "<i8", "|b1")


def parts(message: bytes) -> tuple[dict[str, object], bytes]:
    head = frames.LENGTHS.size
    header, body = frames.lengths(message[:head])
    assert len(message) == head + header + body
    return frames.header_of(message[head : head + header]), message[head + header :]


@given(data=st.data(), shape=st.tuples(st.integers(0, 4), st.integers(1, 3)))
def test_arrays_come_back(data: st.DataObject, shape: tuple[int, int]) -> None:
    """Numbers of every kind and texts arrive as they were."""
    texts = st.text(st.characters(codec="utf-8"), max_size=5)
    made = [data.draw(arrays.arrays(kind, shape)) for kind in KINDS]
    count = shape[0] * shape[1]
    listed = data.draw(st.lists(texts, min_size=count, max_size=count))
    made.append(np.array([*listed, None], object)[:-1].reshape(shape))
    header, body = parts(frames.encode({"a": 1}, made))
    assert header["a"] == 1
    expected = [Expected(kind, shape) for kind in (*KINDS, frames.TEXT)]
    for found, array in zip(frames.arrays_of(header, body, expected), made, strict=True):
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({}, b""),
        ({"sizes": "4"}, b"1234"),
        ({"sizes": [4, 4]}, b"12345678"),
        ({"sizes": [-4]}, b"1234"),
        ({"sizes": [8]}, b"1234"),
        ({"sizes": [True]}, b"1234"),
        ({"sizes": [3]}, b"1234"),
    ],
)
def test_arrays_refused(header: dict[str, object], body: bytes) -> None:
    """Arrays other than the expected ones are refused, whatever the header claims."""
    with pytest.raises(frames.MalformedError):
        frames.arrays_of(header, body, [Expected("<f4", (1, 1))])


@pytest.mark.parametrize("data", [b"", b"[", b"{}", b"[1]", b'["a", "b"]', b"[" * 100_000])
def test_texts_refused(data: bytes) -> None:
    """Texts other than the expected ones are refused."""
    with pytest.raises(frames.MalformedError):
        frames.arrays_of({"sizes": [len(data)]}, data, [Expected(frames.TEXT, (1, 1))])


@pytest.mark.parametrize("lengths", [(1 << 21, 0), (10, 1 << 40)])
def test_lengths_bounded(lengths: tuple[int, int]) -> None:
    """Nothing is read that is larger than anything agreed."""
    with pytest.raises(frames.MalformedError):
        frames.lengths(frames.LENGTHS.pack(*lengths))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_header_refused(text: bytes) -> None:
    """A header is an object or refused."""
    with pytest.raises(frames.MalformedError):
        frames.header_of(text)
