"""How long calls take, as a quantile of the last ones."""

KEPT = 512
ENOUGH = 64
"""Calls before a quantile means anything, and between two looks at it."""


class Latencies:
    """The last calls' times, a bounded number of them."""

    __slots__ = ("_seen", "_times", "_value")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._seen = 0
        self._value: float | None = None

    def note(self, seconds: float, quantile: float) -> None:
        """Takes the time of a call."""
        if len(self._times) < KEPT:
            self._times.append(seconds)
        else:
            self._times[self._seen % KEPT] = seconds
        self._seen += 1
        if self._seen % ENOUGH == 0:
            ordered = sorted(self._times)
            self._value = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    @property
    def value(self) -> float | None:
        """The quantile, None while there were too few calls."""
        return self._value
