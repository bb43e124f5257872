import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import bitmap


@given(st.lists(st.booleans(), max_size=70))
def test_pack_round_trips(flags: list[bool]) -> None:
    """Any number of flags comes back unchanged, by look-up and by numpy alike."""
    array = np.array(flags, np.bool_)
    packed = bitmap.pack(array)
    assert len(packed) == bitmap.byte_length(len(flags))
    assert bitmap.unpack(packed, len(flags)).tolist() == flags


@given(st.lists(st.booleans(), max_size=70), st.integers(0, 40))
def test_unpack_starts_at_any_bit(flags: list[bool], start: int) -> None:
    """A slice of a bitmap may begin within a byte."""
    start = min(start, len(flags))
    bits = np.packbits(np.array(flags, np.bool_), bitorder="little")
    assert bitmap.unpack(bits, len(flags) - start, start).tolist() == flags[start:]


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 17])
def test_pack_clears_padding(rows: int) -> None:
    """Bits past the last row are zero, so that equal columns have equal bytes."""
    packed = bitmap.pack(np.ones(rows, np.bool_))
    assert int.from_bytes(packed, "little") == (1 << rows) - 1


def test_unpack_is_read_only() -> None:
    """Neither a looked-up nor a fresh result can be written to."""
    for rows in (3, 30):
        assert not bitmap.unpack(b"\xff" * 4, rows).flags.writeable
