import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import testing, utf8


def _row_is_valid(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@st.composite
def _buffers(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    data = draw(st.binary(max_size=30) | testing.texts.map(str.encode))
    cuts = draw(st.lists(st.integers(0, len(data)), min_size=1, max_size=12))
    return data, sorted(cuts)


@given(_buffers())
def test_first_invalid_row_agrees_with_row_by_row(case: tuple[bytes, list[int]]) -> None:
    """The check of the whole buffer finds the same first bad row as decoding each row does."""
    data, bounds = case
    rows = [data[a:b] for a, b in itertools.pairwise(bounds)]
    expected = next((row for row, part in enumerate(rows) if not _row_is_valid(part)), None)
    assert utf8.first_invalid_row(data, np.array(bounds, np.int32)) == expected


@given(st.lists(testing.texts, max_size=80))
def test_encode_round_trips(texts: list[str]) -> None:
    """Texts of any Unicode come back row by row."""
    values, offsets = utf8.encode(texts)
    assert offsets is not None
    assert utf8.decode(values, offsets) == texts


@given(st.lists(testing.texts, min_size=1, max_size=20), st.data())
def test_gather_takes_rows(texts: list[str], data: st.DataObject) -> None:
    """Rows may be taken in any order and more than once."""
    indices = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=20))
    values, offsets = utf8.encode(texts)
    assert offsets is not None
    taken, bounds = utf8.gather(values, offsets.astype(np.int32), np.array(indices, np.intp))
    assert utf8.decode(taken, bounds.astype(np.int32)) == [texts[index] for index in indices]


@pytest.mark.parametrize("rows", [3, 200])
def test_is_monotonic_finds_one_descent(rows: int) -> None:
    """One falling offset is found in short and in long arrays."""
    offsets = np.arange(rows, dtype=np.int32)
    assert utf8.is_monotonic(offsets)
    offsets[rows - 1] = 0
    assert not utf8.is_monotonic(offsets)
    assert utf8.first_descent(offsets) == rows - 1
