from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from setpoint_columns import Columns, DataType
from setpoint_feature.domain import assemble, definitions, derivation, derived
from setpoint_features import declaration, transformation
from setpoint_runtime import errors

FLOAT64 = DataType.FLOAT64
STATUS = definitions.Status


@transformation(FLOAT64)
def total(one: Any, other: Any) -> Any:
    return one + other


@transformation(FLOAT64, takes_nulls=True)
def known(one: Any, other: Any) -> Any:
    return np.ma.where(np.ma.getmaskarray(one), other, one)  # type: ignore[no-untyped-call]  # numpy's own.


@transformation(FLOAT64)
def ratio(one: Any, other: Any) -> Any:
    return one / other


@transformation(FLOAT64)
def doubled(one: Any) -> Any:
    return one * 2


@transformation(FLOAT64)
def centred(one: Any) -> Any:
    return one - one.mean()


def step(name: str, function: Any, *inputs: str) -> derivation.Step:
    made = declaration.of(function)
    assert made is not None
    return derivation.Step(name, made, inputs)


def served(**columns: tuple[Sequence[float | None], Sequence[int], Sequence[int]]) -> Any:
    """Returns an answer: values, statuses and event times of each column."""
    return assemble.Served(
        Columns.from_dict({name: (FLOAT64, each[0]) for name, each in columns.items()}),
        tuple(bytes(each[1]) for each in columns.values()),
        tuple(np.array(each[2], "<i8").tobytes() for each in columns.values()),
    )


def run(
    answer: assemble.Served, *steps: derivation.Step, given: Columns | None = None
) -> assemble.Served:
    names = tuple(sorted(each.name for each in steps))
    recipe = derivation.Derivation(steps, names, ())
    return derived.derive(recipe, answer, given or Columns(answer.features.rows), is_checked=True)


def last(answer: assemble.Served) -> tuple[list[Any], list[int], list[int]]:
    """Returns values, statuses and event times of the last column."""
    times: list[int] = np.frombuffer(answer.event_times[-1], "<i8").tolist()
    return answer.features.columns[-1].to_list(), list(answer.statuses[-1]), times


@pytest.mark.parametrize(
    ("one", "other", "worst"),
    [
        (STATUS.FRESH, STATUS.FRESH, STATUS.FRESH),
        (STATUS.FRESH, STATUS.GIVEN, STATUS.FRESH),
        (STATUS.GIVEN, STATUS.GIVEN, STATUS.GIVEN),
        (STATUS.FRESH, STATUS.DEFAULT, STATUS.DEFAULT),
        (STATUS.DEFAULT, STATUS.STALE, STATUS.STALE),
        (STATUS.STALE, STATUS.MISSING, STATUS.MISSING),
    ],
)
def test_derive_is_as_good_as_the_worst_input(one: int, other: int, worst: int) -> None:
    """The status of a derived value is the worst of its inputs', whichever comes first."""
    values = [None if worst is STATUS.MISSING else 1.0]
    for first, second in ((one, other), (other, one)):
        answer = served(a=(values, [first], [5]), b=(values, [second], [7]))

        assert last(run(answer, step("c", total, "a", "b")))[1] == [worst]


def test_derive_has_the_oldest_time_of_its_inputs() -> None:
    """A derived value is as old as its oldest input; what the request gave has no age."""
    answer = served(
        a=([1.0, 1.0, None, 1.0], [1, 1, 3, 1], [5, 9, -1, 5]),
        b=([1.0, 1.0, 1.0, None], [1, 1, 1, 3], [7, 3, 8, -1]),
    )

    assert last(run(answer, step("c", total, "a", "b")))[2] == [5, 3, 8, 5]


def test_derive_of_given_values_is_given() -> None:
    """What comes of the request alone is the request's, without an event time."""
    given = Columns.from_dict({"g": (FLOAT64, [1.5, None])})
    answer = assemble.Served(Columns(2), (), ())

    assert last(run(answer, step("c", doubled, "g"), given=given)) == (
        [3.0, None],
        [STATUS.GIVEN] * 2,
        [-1, -1],
    )


def test_derive_value_in_spite_of_a_missing_input_is_a_default() -> None:
    """MISSING says that null is served, so a value made without an input is DEFAULT."""
    answer = served(a=([None, None], [3, 3], [-1, -1]), b=([2.0, None], [1, 3], [7, -1]))

    assert last(run(answer, step("c", known, "a", "b")))[:2] == (
        [2.0, None],
        [STATUS.DEFAULT, STATUS.MISSING],
    )


def test_derive_null_for_a_number_that_is_not_finite_is_missing() -> None:
    """A division by zero is null and told as such; a stored null stays what it was."""
    answer = served(
        a=([1.0, 1.0, None], [1, 1, 1], [5, 5, 5]), b=([0.0, 2.0, 1.0], [1] * 3, [5] * 3)
    )

    assert last(run(answer, step("c", ratio, "a", "b")))[:2] == (
        [None, 0.5, None],
        [STATUS.MISSING, STATUS.FRESH, STATUS.FRESH],
    )


def test_derive_reads_what_was_derived() -> None:
    """A step may read another's column, with its status; the answer keeps the set's order."""
    answer = served(a=([1.0], [2], [5]), b=([4.0], [1], [7]))

    found = run(answer, step("z", total, "a", "b"), step("c", doubled, "z"))

    assert found.features.names == ("a", "b", "c", "z")
    assert [each.to_list() for each in found.features.columns] == [[1.0], [4.0], [10.0], [5.0]]
    assert [each[0] for each in found.statuses] == [2, 1, 2, 2]


def test_derive_refuses_what_mixes_rows() -> None:
    """A function of all rows together would answer one caller with another's values."""
    answer = served(a=([1.0, 2.0, 3.0], [1] * 3, [5] * 3))

    with pytest.raises(errors.InternalError) as caught:
        run(answer, step("c", centred, "a"))

    assert caught.value.reason is errors.Reason.TRANSFORMATION_FAILED


def test_given_casts_and_names_what_is_wrong() -> None:
    """Request columns are taken in another width where exact, and named where absent or wrong."""
    spec = definitions.FieldSpec("hour", FLOAT64)
    recipe = derivation.Derivation((), (), (spec,))

    table = Columns.from_dict({"hour": (DataType.INT64, [3, None])})
    assert recipe.given(table, "entities")["hour"].to_list() == [3.0, None]
    for bad, reason in (
        (Columns(2), errors.Reason.MISSING_FIELD),
        (Columns.from_dict({"hour": (DataType.STRING, ["a"])}), errors.Reason.WRONG_TYPE),
    ):
        with pytest.raises(errors.InvalidArgumentError) as caught:
            recipe.given(bad, "entities")
        assert caught.value.reason is reason
        assert caught.value.violations[0].field.startswith("entities.hour")
