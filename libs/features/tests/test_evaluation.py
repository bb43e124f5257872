from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Column, DataType
from setpoint_features import declaration, evaluation
from setpoint_runtime import errors

FLOAT64, INT64, STRING = DataType.FLOAT64, DataType.INT64, DataType.STRING
SEEN: list[Any] = []


@declaration.transformation(FLOAT64)
def ratio(above: Any, below: Any) -> Any:
    SEEN.append((above, below))
    return above / below


@declaration.transformation(FLOAT64, not_finite="refuse")
def strict_ratio(above: Any, below: Any) -> Any:
    return above / below


@declaration.transformation(FLOAT64, not_finite="keep")
def loose_ratio(above: Any, below: Any) -> Any:
    return above / below


@declaration.transformation(FLOAT64, takes_nulls=True)
def first_known(above: Any, below: Any) -> Any:
    return np.ma.where(  # type: ignore[no-untyped-call]  # numpy's own.
        np.ma.getmaskarray(above), below, above
    )


@declaration.transformation(FLOAT64)
def centred(above: Any) -> Any:
    return above - above.mean()


@declaration.transformation(STRING)
def joined(left: Any, right: Any) -> Any:
    return left + "-" + right


@declaration.transformation(FLOAT64)
def raising(above: Any) -> Any:
    raise ValueError(f"secret {above}")


def column(name: str, values: list[Any], dtype: DataType = FLOAT64) -> Column:
    return Column.from_list(name, values, dtype)


def run(function: Any, *arguments: Column) -> evaluation.Result:
    made = declaration.of(function)
    assert made is not None
    return evaluation.run(made, "out", arguments, arguments[0].rows)


def refused(function: Any, *arguments: Column) -> str:
    with pytest.raises(errors.InternalError) as caught:
        run(function, *arguments)
    assert caught.value.reason is errors.Reason.TRANSFORMATION_FAILED
    assert caught.value.metadata["transformation"] == "out"
    assert function.__name__ in caught.value.message
    return caught.value.message


def test_run_sees_complete_rows_alone() -> None:
    """Rows with a null are null, and the function never sees them."""
    SEEN.clear()
    result = run(ratio, column("a", [1.0, None, 3.0, 4.0]), column("b", [2.0, 1.0, None, 8.0]))

    assert result.column.to_list() == [0.5, None, None, 0.5]
    assert result.not_finite is None
    assert [each.tolist() for each in SEEN[0]] == [[1.0, 4.0], [2.0, 8.0]]


def test_run_is_not_called_without_a_row() -> None:
    """No row, or none complete: there is nothing to ask the function."""
    SEEN.clear()

    assert run(ratio, column("a", []), column("b", [])).column.rows == 0
    assert run(ratio, column("a", [None]), column("b", [1.0])).column.to_list() == [None]
    assert SEEN == []


def test_run_tells_of_nulls_on_demand() -> None:
    """A function that takes nulls may answer them, and makes them by masking."""
    result = run(first_known, column("a", [1.0, None, None]), column("b", [5.0, 6.0, None]))

    assert result.column.to_list() == [1.0, 6.0, None]


def test_run_by_the_rule_for_numbers_that_are_not_finite() -> None:
    """They are null and told of, refused, or kept, as declared."""
    a, b = column("a", [1.0, 0.0, None, 4.0]), column("b", [0.0, 0.0, 1.0, 2.0])
    result = run(ratio, a, b)

    assert result.column.to_list() == [None, None, None, 2.0]
    assert result.not_finite is not None
    assert result.not_finite.tolist() == [True, True, False, False]
    assert "not finite for 2 of 3 rows" in refused(strict_ratio, a, b)
    kept = run(loose_ratio, a, b).column.to_list()
    assert kept[0] == np.inf
    assert np.isnan(kept[1])


def test_run_text() -> None:
    """Text goes in and comes out, nulls around it kept."""
    found = run(joined, column("l", ["a", None, "é"], STRING), column("r", ["b", "c", "d"], STRING))

    assert found.column.to_list() == ["a-b", None, "é-d"]


def test_run_says_where_a_function_raises_but_not_with_what() -> None:
    """Type and line are told; the text may hold values of a caller, and is not."""
    message = refused(raising, column("a", [42.5]))

    assert "raised ValueError at test_evaluation.py:" in message
    assert "secret" not in message
    assert "42.5" not in message


@pytest.mark.parametrize(
    ("dtype", "returned", "told"),
    [
        (FLOAT64, np.zeros(3), "returned shape (3,) for 2 rows"),
        (FLOAT64, np.zeros((2, 1)), "returned shape (2, 1) for 2 rows"),
        (FLOAT64, 1.0, "returned float instead of an array"),
        (FLOAT64, [1.0, 2.0], "returned list instead of an array"),
        (FLOAT64, np.array(["a", "b"]), "returned <U1 where FLOAT64 is declared"),
        (INT64, np.zeros(2), "returned float64 where INT64 is declared"),
        (DataType.INT32, np.array([1, 1 << 31]), "does not fit INT32"),
        (INT64, np.array([1, (1 << 64) - 1], np.uint64), "does not fit INT64"),
        (DataType.BOOL, np.zeros(2, np.int64), "returned int64 where BOOL is declared"),
        (STRING, np.array(["a", 1], object), "something else than text"),
        (DataType.TIMESTAMP, np.zeros(2), "returned float64 where TIMESTAMP is declared"),
    ],
)
def test_run_refuses_what_is_not_declared(dtype: DataType, returned: Any, told: str) -> None:
    """A result of another length or type is refused, naming column and function."""
    made = declaration.Transformation(lambda above: returned, dtype, False, "null")

    with pytest.raises(errors.InternalError, match="out") as caught:
        evaluation.run(made, "out", [column("a", [1.0, 2.0])], 2)

    assert told in caught.value.message


@pytest.mark.parametrize(
    ("dtype", "returned", "values"),
    [
        (FLOAT64, np.array([1, 2], np.int32), [1.0, 2.0]),
        (DataType.FLOAT32, np.array([0.1, 1e300]), [float(np.float32(0.1)), None]),
        (DataType.INT32, np.array([1, 2], np.uint8), [1, 2]),
        (DataType.BOOL, np.array([True, False]), [True, False]),
        (DataType.TIMESTAMP, np.array(["1970-01-01T00:00:01", "NaT"], "M8[s]"), [1_000_000, None]),
        (STRING, np.array(["a", None], object), ["a", None]),
        (STRING, np.array(["a", "bc"]), ["a", "bc"]),
        (INT64, np.ma.MaskedArray([1, 2], [False, True]), [1, None]),
    ],
)
def test_run_takes_what_has_the_type(dtype: DataType, returned: Any, values: list[Any]) -> None:
    """Numbers of another width are taken as the declared type, dates as timestamps, masks as nulls."""
    made = declaration.Transformation(lambda above: returned, dtype, False, "null")

    found = evaluation.run(made, "out", [column("a", [1.0, 2.0])], 2).column

    assert found.dtype is dtype
    assert found.to_list() == values


def test_run_gives_arrays_that_cannot_be_written_to() -> None:
    """A function cannot change what others see."""

    def spoil(above: Any) -> Any:
        above[0] = 7.0
        return above

    given_column = column("a", [1.0, 2.0])
    made = declaration.Transformation(spoil, FLOAT64, False, "null")

    with pytest.raises(errors.InternalError, match="raised ValueError"):
        evaluation.run(made, "out", [given_column], 2)
    assert given_column.to_list() == [1.0, 2.0]


def test_check_rows_alone_finds_a_function_that_mixes_rows() -> None:
    """A mean over the callers of one moment is refused, a function of each row is not."""
    values = column("a", [1.0, 2.0, None, 4.0])
    for function, mixes in ((centred, True), (ratio, False)):
        made = declaration.of(function)
        assert made is not None
        arguments = [values] * len(made.parameters)
        result = evaluation.run(made, "out", arguments, 4)
        if mixes:
            with pytest.raises(errors.InternalError, match="company of other rows"):
                evaluation.check_rows_alone(made, result, arguments)
        else:
            evaluation.check_rows_alone(made, result, arguments)


NUMBERS = st.none() | st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12), st.randoms(use_true_random=False))
def test_run_answers_each_row_from_itself(rows: list[tuple[Any, Any]], random: Any) -> None:
    """Whatever comes with a row, and wherever it stands, its value is that of the row alone."""
    for function in (ratio, first_known):
        alone = [run(function, column("a", [a]), column("b", [b])).column.item(0) for a, b in rows]
        order = random.sample(range(len(rows)), len(rows))
        mixed = run(
            function,
            column("a", [rows[at][0] for at in order]),
            column("b", [rows[at][1] for at in order]),
        )
        assert mixed.column.to_list() == [alone[at] for at in order]
