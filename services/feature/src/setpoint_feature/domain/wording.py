"""Times in sentences for people."""

from typing import Final

_MICROSECONDS: Final = (
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
)


def duration(microseconds: int) -> str:
    """Writes a length of time in the largest unit that it fills."""
    for unit, size in _MICROSECONDS:
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds} µs"
