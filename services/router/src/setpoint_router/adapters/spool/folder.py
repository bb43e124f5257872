"""The files of a spool: segments, the ship position, quarantine, dead letters."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LETTER = ".record"
_PREFIX, _SUFFIX = "segment-", ".spool"
_DIGITS = 20


class InUseError(Exception):
    """Another router uses the folder."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the spool."""

    segment: int
    """Number of the segment: the sequence of its first frame."""
    offset: int
    """Bytes into it."""


class Folder:
    """Names, makes and deletes the files of one spool."""

    def __init__(self, path: Path) -> None:
        """Take a folder, made when it is missing."""
        self.path = path
        self.quarantine = path / "quarantine"
        self.dead_letters = path / "dead-letters"
        for each in (path, self.quarantine, self.dead_letters):
            each.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = None

    def lock(self) -> None:
        """Keep other routers away.

        Raises:
            InUseError: One is there already.
        """
        handle = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise InUseError(f"another router uses the spool {self.path}") from error
        self._lock = handle

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def segment(self, number: int) -> Path:
        """Returns the file of a segment."""
        return self.path / f"{_PREFIX}{number:0{_DIGITS}}{_SUFFIX}"

    def segments(self) -> list[int]:
        """Returns the numbers of all segments, rising."""
        names = [each.name for each in self.path.glob(f"{_PREFIX}*{_SUFFIX}")]
        digits = [name[len(_PREFIX) : -len(_SUFFIX)] for name in names]
        return sorted(int(each) for each in digits if each.isdecimal())

    def size(self, number: int) -> int:
        """Returns the bytes of a segment, 0 when it is gone."""
        try:
            return self.segment(number).stat().st_size
        except FileNotFoundError:
            return 0

    def sync(self) -> None:
        """Make the names of files durable; their content is synced by who writes it."""
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def read_position(self) -> Position | None:
        """Returns how far records have been confirmed; None when that is not known."""
        try:
            found = json.loads((self.path / "position.json").read_text())
            return Position(int(found["segment"]), int(found["offset"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Without it everything is shipped again, which the receiver tolerates.
            return None

    def write_position(self, position: Position) -> None:
        """Keep how far records have been confirmed.

        It is not synced: an old position after a crash only ships some records once more.
        """
        text = json.dumps({"segment": position.segment, "offset": position.offset})
        replace(self.path / "position.json", text.encode(), is_durable=False)

    def set_aside(self, name: str, data: bytes) -> Path:
        """Keep damaged bytes for people to look at."""
        path = self.quarantine / name
        replace(path, data)
        return path

    def bury(self, sequence: int, payload: bytes, reason: Mapping[str, Any]) -> Path:
        """Keep a record that the receiver refuses, and why it does."""
        path = self.dead_letters / f"{sequence:0{_DIGITS}}{_LETTER}"
        replace(path, payload)
        replace(path.with_suffix(".json"), json.dumps({"sequence": sequence, **reason}).encode())
        return path

    def letters(self) -> list[Path]:
        """Returns the files of all dead letters, oldest first."""
        return sorted(self.dead_letters.glob(f"*{_LETTER}"))

    def reason_of(self, letter: Path) -> dict[str, Any]:
        """Returns why a record was refused; empty when that is not known."""
        try:
            found = json.loads(letter.with_suffix(".json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def unbury(self, letter: Path) -> None:
        """Delete a dead letter that has been taken after all."""
        letter.unlink()
        letter.with_suffix(".json").unlink(missing_ok=True)

    def delete_before(self, number: int) -> Iterator[int]:
        """Delete the segments before one; yields the bytes of each."""
        for each in self.segments():
            if each >= number:
                return
            size = self.size(each)
            with contextlib.suppress(FileNotFoundError):
                self.segment(each).unlink()
            yield size


def replace(path: Path, data: bytes, *, is_durable: bool = True) -> None:
    """Write a file so that readers see the old or the new content, never a piece of it."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("wb") as file:
        file.write(data)
        if is_durable:
            file.flush()
            os.fsync(file.fileno())
    scratch.replace(path)
    if is_durable:
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
