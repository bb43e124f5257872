"""What running a version costs, so that a call can be placed before it runs."""

from collections.abc import Callable

BATCH_ROWS = 64
_TURNS = 6
EXAMPLE_ROWS = BATCH_ROWS * _TURNS
_LONG_SECONDS = 0.02
"""A run this long is measured once: such a version never runs on the event loop anyway."""
_GROWTH = 1.1
_DECAY = 0.99
"""An estimate that is passed grows by 10 %, one that holds shrinks by 1 %, so it settles where one
call in eleven passes it. How far a call passes it does not count: that is mostly a busy machine."""


class Cost:
    """Estimates the time of a call from its rows: measured at load, corrected by what happens.

    The line through one row and 64 rows is what a model costs at best; a factor on it follows the
    calls themselves, whose data may be harder than what the version was warmed up with.
    """

    __slots__ = ("_base", "_per_row", "_scale")

    def __init__(self, one_row_us: float, batch_us: float) -> None:
        """Fit the line through the times of one row and of 64 rows."""
        self._per_row = max(0.0, (batch_us - one_row_us) / (BATCH_ROWS - 1))
        self._base = one_row_us - self._per_row
        self._scale = 1.0

    @property
    def shared_us(self) -> float:
        """What a run costs beside its rows, in microseconds."""
        return max(0.0, self._base) * self._scale

    def estimate_us(self, rows: int) -> float:
        """Return how long a call of so many rows is likely to take, in microseconds."""
        return max(0.0, self._base + self._per_row * rows) * self._scale

    def observe(self, rows: int, took_us: float) -> None:
        """Learn from a call."""
        estimate = self.estimate_us(rows)
        if estimate > 0:
            self._scale = max(1.0, self._scale * (_GROWTH if took_us > estimate else _DECAY))


def measure(run: Callable[[int, int], None], now: Callable[[], float]) -> Cost:
    """Return the cost of a version.

    Args:
        run: Runs rows of the EXAMPLE_ROWS, from the first of two numbers up to the second.
        now: The calling thread's own seconds, so that others do not count.
    """
    return Cost(_best_us(run, 1, now), _best_us(run, BATCH_ROWS, now))


def _best_us(run: Callable[[int, int], None], rows: int, now: Callable[[], float]) -> float:
    """Return the shortest of several runs: what disturbs a run only ever adds to it."""
    best = float("inf")
    for turn in range(_TURNS):
        started = now()
        run(turn * rows, (turn + 1) * rows)
        best = min(best, now() - started)
        if best > _LONG_SECONDS:
            break
    return best * 1e6
