import numpy as np
import pytest

from setpoint_router.service import halving
from setpoint_runtime import errors

REFUSED = errors.invalid("entities.plane", "too long", "must fit an index")
BROKEN = errors.InternalError(errors.Reason.TRANSFORMATION_FAILED, "broke")


async def asked(bad: set[int], rows: int, error: errors.SetpointError) -> tuple[set[int], int]:
    """Returns the rows that failed when some are bad, and how many calls it took."""
    calls = 0

    async def call(wanted: halving.Rows) -> None:
        nonlocal calls
        calls += 1
        if bad.intersection(wanted.tolist()):
            raise error

    attempt = halving.Halving(call)
    await attempt.run(np.arange(rows))
    answered = {row for part, _ in attempt.parts for row in part.tolist()}
    assert answered | set(attempt.errors) == set(range(rows))
    return set(attempt.errors), calls


@pytest.mark.parametrize("error", [REFUSED, BROKEN])
async def test_bad_row_fails_alone(error: errors.SetpointError) -> None:
    """Its mates are answered, after about two calls for each time that the rows are halved."""
    failed, calls = await asked({77}, 256, error)

    assert failed == {77}
    assert calls == 17


async def test_rows_that_are_refused_touch_no_mate() -> None:
    """However many one caller sends before another one's, none of theirs fails with them."""
    bad = {*range(12), 13, 15}

    failed, _ = await asked(bad, 16, REFUSED)

    assert failed == bad


@pytest.mark.parametrize(("error", "most"), [(REFUSED, 150), (BROKEN, 30)])
async def test_all_bad_is_not_asked_one_by_one(error: errors.SetpointError, most: int) -> None:
    """Where nothing works the calls have an end."""
    failed, calls = await asked(set(range(256)), 256, error)

    assert len(failed) == 256
    assert calls <= most
