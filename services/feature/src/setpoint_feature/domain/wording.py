"""Times in sentences for people."""

import datetime as dt
from typing import Final

_MICROSECONDS: Final = (
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
)


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def moment(microseconds: int) -> str:
    """Writes a time as date and time of day, or as microseconds where no calendar reaches."""
    try:
        return (_EPOCH + dt.timedelta(microseconds=microseconds)).isoformat()
    except OverflowError:
        return f"{microseconds} µs"


def duration(microseconds: int) -> str:
    """Writes a length of time in the largest unit that it fills."""
    for unit, size in _MICROSECONDS:
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds} µs"


def exact_duration(microseconds: int) -> str:
    """Writes a length of time in whole units, so that two of them never look the same."""
    parts = []
    for unit, size in (*_MICROSECONDS, ("µs", 1)):
        count, microseconds = divmod(microseconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts) or "0 µs"
