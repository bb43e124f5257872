"""Identifiers of many predictions at once."""

import os
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

ID_LENGTH = 36
"""Characters of a UUID."""

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_TEMPLATE = np.frombuffer(b"00000000-0000-7000-8000-000000000000", np.uint8)
_RANDOM = [*range(15, 18), *range(20, 23), *range(24, 36)]
"""Positions of the 18 digits that are random altogether."""

_VARIANT = 19
"""Position of the digit whose upper two bits are 10."""


class PredictionIds(Sequence[str]):
    """Identifiers as columns and records want them: one buffer, texts only for whoever asks."""

    __slots__ = ("_texts", "characters")

    def __init__(self, characters: npt.NDArray[np.uint8]) -> None:
        """Wrap ASCII characters, a row for each identifier."""
        self.characters = characters
        self._texts: list[str] | None = None

    def texts(self) -> list[str]:
        """Return them one by one."""
        if self._texts is None:
            joined = self.characters.tobytes().decode("ascii")
            starts = range(0, len(joined), ID_LENGTH)
            self._texts = [joined[start : start + ID_LENGTH] for start in starts]
        return self._texts

    def take(self, rows: "npt.NDArray[np.intp] | slice") -> "PredictionIds":
        """Return those of some rows."""
        return PredictionIds(self.characters[rows])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.characters)

    def __iter__(self) -> Iterator[str]:
        """Go through them."""
        return iter(self.texts())

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        """Return one, or several as a list."""
        return self.texts()[row]


def prediction_ids(count: int, now_us: int) -> PredictionIds:
    """Returns UUIDs version 7 of one moment; apart from the time they are random.

    Making them one by one would take longer than everything else that happens to a row.
    """
    stamp = f"{now_us // 1000:012x}".encode()
    texts = np.empty((count, ID_LENGTH), np.uint8)
    texts[:] = _TEMPLATE
    texts[:, :8] = np.frombuffer(stamp[:8], np.uint8)
    texts[:, 9:13] = np.frombuffer(stamp[8:], np.uint8)
    drawn = np.frombuffer(os.urandom(10 * count), np.uint8).reshape(count, 10)
    texts[:, _RANDOM[:9]] = _DIGITS[drawn[:, :9] & 15]
    texts[:, _RANDOM[9:]] = _DIGITS[drawn[:, :9] >> 4]
    texts[:, _VARIANT] = _DIGITS[8 + (drawn[:, 9] & 3)]
    return PredictionIds(texts)
