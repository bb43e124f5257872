"""Identifiers of many predictions."""

import hypothesis
import numpy as np
from hypothesis import strategies

from setpoint_router.domain import identity
from setpoint_runtime import ids


@hypothesis.given(strategies.integers(0, 300), strategies.integers(0, (2**48 - 1) * 1000))
def test_prediction_ids_are_uuids(count: int, now_us: int) -> None:
    """Shows that they are distinct UUIDs version 7 that carry the time."""
    made = identity.prediction_ids(count, now_us)
    assert len(set(made)) == len(made) == count
    for each in made:
        assert ids.is_uuid(each)
        assert each[14] == "7"
        assert each[19] in "89ab"
        assert int(each[:8] + each[9:13], 16) == now_us // 1000


def test_prediction_ids_are_taken_by_row() -> None:
    """Shows that any rows can be taken, and that texts and characters agree."""
    made = identity.prediction_ids(10, 0)
    rows = np.array([7, 2])
    assert list(made.take(rows)) == [made[7], made[2]]
    assert list(made.take(slice(3, 5))) == made[3:5] == made.texts()[3:5]
    assert made.characters.tobytes() == "".join(made).encode()


def test_prediction_ids_use_all_digits() -> None:
    """Shows that no digit that should be random is fixed."""
    made = identity.prediction_ids(2_000, 0)
    for position in (*range(15, 18), *range(20, 23), *range(24, 36)):
        assert {each[position] for each in made} == set("0123456789abcdef")
