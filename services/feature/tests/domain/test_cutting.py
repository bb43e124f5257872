from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Columns, DataType
from setpoint_feature.domain import cutting


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 60))
def test_cuts_fit_wherever_the_large_rows_lie(lengths: list[int], longest: int) -> None:
    """Stretches follow each other, none is too large but that of a single row, and none could take the next row."""
    columns = Columns.from_dict(
        {
            "text": (DataType.STRING, ["x" * each for each in lengths]),
            "number": (DataType.INT64, [1] * len(lengths)),
        }
    )
    found = cutting.cuts(columns, 2, longest)

    sizes = [each + 4 + 8 + 2 for each in lengths]
    assert [at for cut in found for at in range(*cut)] == list(range(len(lengths)))
    for start, stop in found:
        assert stop - start == 1 or sum(sizes[start:stop]) <= longest
        assert stop == len(sizes) or sum(sizes[start : stop + 1]) > longest
