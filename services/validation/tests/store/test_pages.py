import pytest

from setpoint_validation.store import pages

HALF = pages.PAGE_BYTES // 2


@pytest.mark.parametrize(
    ("sizes", "limit", "count"),
    [
        ([], 10, 0),
        ([1, 1, 1], 2, 2),
        ([1, 1], 2, 2),
        ([HALF, HALF, 1], 10, 2),
        ([pages.PAGE_BYTES + 1, 1], 10, 1),
        ([1, pages.PAGE_BYTES], 10, 1),
    ],
)
def test_fitting(sizes: list[int], limit: int, count: int) -> None:
    """A page ends at the number asked for or at its bytes, but one row always fits."""
    assert pages.fitting(sizes, limit) == count
