import numpy as np
import pytest

from setpoint_feature.domain import visibility

LOW, HIGH = -(1 << 63), (1 << 63) - 1


def judged(rule: visibility.Rule, event: int, created: int, time: int, exists: bool = True) -> int:
    arrays = [np.array([each], np.int64) for each in (event, created, time)]
    return int(rule.judge(np.array([exists]), *arrays)[0])


@pytest.mark.parametrize(
    ("event", "time", "exclusive", "expected"),
    [
        (10, 10, False, visibility.FRESH),
        (10, 10, True, visibility.ABSENT),
        (9, 10, True, visibility.FRESH),
        (11, 10, False, visibility.ABSENT),
    ],
)
def test_judge_boundary(event: int, time: int, exclusive: bool, expected: int) -> None:
    """A value at the asked time is seen by an inclusive view only."""
    assert judged(visibility.Rule(0, exclusive=exclusive), event, 0, time) == expected


@pytest.mark.parametrize(
    ("created", "arrival", "expected"),
    [(10, True, visibility.FRESH), (11, True, visibility.ABSENT), (11, False, visibility.FRESH)],
)
def test_judge_arrival(created: int, arrival: bool, expected: int) -> None:
    """A value that arrived later is not known, unless arrival is ignored by name."""
    rule = visibility.Rule(0, exclusive=False, arrival=arrival)
    assert judged(rule, 5, created, 10) == expected


@pytest.mark.parametrize(
    ("event", "time", "ttl", "expected"),
    [
        (7, 10, 3, visibility.FRESH),
        (6, 10, 3, visibility.STALE),
        (LOW, HIGH, 0, visibility.FRESH),
        (LOW, HIGH, HIGH, visibility.STALE),
        (LOW, LOW + 5, HIGH, visibility.FRESH),
        (LOW, -1, HIGH, visibility.FRESH),
        (LOW, 0, HIGH, visibility.STALE),
    ],
)
def test_judge_ttl(event: int, time: int, ttl: int, expected: int) -> None:
    """TTL is inclusive to the microsecond, endless at 0, and never wraps around."""
    assert judged(visibility.Rule(ttl, exclusive=False), event, LOW, time) == expected


def test_judge_absent_value() -> None:
    """Where there is no value, its undefined times do not matter."""
    assert judged(visibility.Rule(1, exclusive=False), 0, 0, 100, exists=False) == visibility.ABSENT
