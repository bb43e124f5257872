"""CSV in pieces: where records end is found once, so that each partition is read by itself.

Whether a line break ends a record depends on every quotation mark before it, so a file is looked
through from its beginning; after that its partitions are ranges of bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as arrow_csv

from setpoint_batch.partition import failures, places
from setpoint_runtime import errors

_QUOTE, _BREAK, _RETURN = ord('"'), ord("\n"), ord("\r")
_MARK = b"\xef\xbb\xbf"
MAX_HEADER_BYTES = 1024 * 1024

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""By the ending of a name."""


def compression(url: str) -> str | None:
    """Returns how a file is compressed, None when it is not."""
    return next((each for ending, each in COMPRESSIONS.items() if url.endswith(ending)), None)


def blocks(url: str, file: Any) -> Iterator[bytes]:
    """Yields what a file holds in large pieces, without its compression."""
    opened = _plain(url, file)
    while block := opened.read(places.BLOCK_BYTES):
        yield block


def _plain(url: str, file: Any) -> Any:
    found = compression(url)
    if found is None:
        return file
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), found)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some records of a file: a range of bytes, and rows from `first_row` on."""

    start: int
    stop: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a file holds."""

    names: tuple[str, ...]
    rows: int
    pieces: tuple[Piece, ...]


class Scanner:
    """Takes a file's bytes block by block and finds its records."""

    def __init__(self, url: str, piece_rows: int) -> None:
        """Prepare to look through a file in pieces of about so many rows."""
        self._url = url
        self._piece_rows = piece_rows
        self._is_quoted = False
        self._position = 0
        self._last_end = 0
        """Where the last line ended, its break included."""
        self._last_byte = _BREAK
        self._header = b""
        self._names: tuple[str, ...] = ()
        self._data_start = 0
        self._pieces: list[Piece] = []
        self._piece_start = 0
        self._piece_first = 0
        self._rows = 0

    def feed(self, block: bytes) -> None:
        """Take the next block."""
        ends = self._line_ends(block)
        previous = np.concatenate([[self._last_end], ends[:-1]]) if len(ends) else ends
        lengths = ends - previous
        is_blank = (lengths == 1) | ((lengths == 2) & self._returns(block, ends))
        if not self._names:
            self._header += block
            if not len(ends) and len(self._header) > MAX_HEADER_BYTES:
                raise failures.invalid_input(self._url, "has no header line")
            if len(ends):
                self._read_header(self._header[: int(ends[0])])
                ends, is_blank = ends[1:], is_blank[1:]
        self._count(ends[~is_blank])
        self._position += len(block)
        if len(ends):
            self._last_end = int(ends[-1])
        self._last_byte = block[-1]

    def finish(self) -> Scanned:
        """Return what was found once the last block has been taken."""
        if not self._names:
            self._read_header(self._header)
            self._last_end = self._position
        if self._is_quoted:
            raise failures.invalid_input(
                self._url, "a quotation mark is opened and never closed", row=self._rows
            )
        if self._position > self._last_end:
            # The last line has no break of its own.
            self._count(np.array([self._position]))
        if self._rows > self._piece_first:
            self._cut(self._position)
        return Scanned(self._names, self._rows, tuple(self._pieces))

    def _line_ends(self, block: bytes) -> npt.NDArray[np.int64]:
        """Return the positions behind the breaks that end a line, in the file."""
        data = np.frombuffer(block, np.uint8)
        breaks = np.flatnonzero(data == _BREAK)
        quotes = np.flatnonzero(data == _QUOTE)
        if len(quotes) or self._is_quoted:
            before = np.searchsorted(quotes, breaks) + int(self._is_quoted)
            breaks = breaks[before % 2 == 0]
            self._is_quoted ^= bool(len(quotes) % 2)
        return breaks + (self._position + 1)

    def _returns(self, block: bytes, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Say for each line whether a carriage return comes before its break."""
        at = ends - self._position - 2
        data = np.frombuffer(block, np.uint8)
        found: npt.NDArray[np.bool_] = data[np.maximum(at, 0)] == _RETURN
        found[at < 0] = self._last_byte == _RETURN
        return found

    def _read_header(self, line: bytes) -> None:
        try:
            text = line.removeprefix(_MARK).decode()
        except UnicodeDecodeError as error:
            raise failures.invalid_input(self._url, f"the header is no UTF-8: {error}") from error
        try:
            names = next(csv.reader([text]), [])
        except csv.Error as error:
            # Lines that end in a bare carriage return are one, and a name has a limit.
            raise failures.invalid_input(self._url, f"has no header line: {error}") from error
        if "\0" in text:
            raise failures.invalid_input(self._url, "has a NUL in its header line")
        if not names:
            raise failures.invalid_input(self._url, "has no header line")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise failures.invalid_input(self._url, "is there twice", column=min(twice))
        self._names = tuple(names)
        self._data_start = self._piece_start = len(line)
        self._last_end = max(self._last_end, self._data_start)
        self._header = b""

    def _count(self, ends: npt.NDArray[np.int64]) -> None:
        """Take more records, cutting pieces as they are full."""
        taken = 0
        while self._rows + len(ends) - taken - self._piece_first >= self._piece_rows:
            needed = self._piece_rows - (self._rows - self._piece_first)
            taken += needed
            self._rows += needed
            self._cut(int(ends[taken - 1]))
        self._rows += len(ends) - taken

    def _cut(self, end: int) -> None:
        rows = self._rows - self._piece_first
        self._pieces.append(Piece(self._piece_start, end, self._piece_first, rows))
        self._piece_start, self._piece_first = end, self._rows


def scan(url: str, blocks: Iterable[bytes], piece_rows: int) -> Scanned:
    """Returns what a CSV file holds.

    Raises:
        InvalidArgumentError: INVALID_INPUT.
    """
    scanner = Scanner(url, piece_rows)
    for block in blocks:
        scanner.feed(block)
    return scanner.finish()


class _Range(io.RawIOBase):
    """Some bytes of a file as a file of their own."""

    def __init__(self, url: str, file: BinaryIO, start: int, stop: int) -> None:
        self._file = _plain(url, file)
        if self._file is file:
            file.seek(start)
        else:
            # No more than the header comes before the one piece of a compressed file.
            self._file.read(start)
        self._left = stop - start

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def chunks(
    url: str, names: tuple[str, ...], piece: Piece, needed: list[str]
) -> Iterator[pa.RecordBatch]:
    """Yields the records of a piece, every column as text.

    Raises:
        InvalidArgumentError: INVALID_INPUT, naming the row.
    """
    wrong: list[Any] = []
    with places.open_input(url) as file:
        try:
            reader = _opened(names, needed, _Range(url, file, piece.start, piece.stop), wrong)
            while (batch := _next(reader)) is not None:
                yield batch
        except pa.ArrowInvalid as error:
            raise _told(url, piece, wrong, error) from error


def _next(reader: Any) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


def _opened(names: tuple[str, ...], needed: list[str], file: _Range, wrong: list[Any]) -> Any:
    def note(found: Any) -> str:
        # Raising here would be lost.
        wrong.append(found)
        return "error"

    return arrow_csv.open_csv(
        pa.PythonFile(file, mode="r"),
        # Rows have numbers only where one thread counts them.
        arrow_csv.ReadOptions(
            use_threads=False, block_size=places.BLOCK_BYTES, column_names=list(names)
        ),
        arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        arrow_csv.ConvertOptions(
            column_types={name: pa.string() for name in names},
            include_columns=needed,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _told(
    url: str, piece: Piece, wrong: list[Any], error: BaseException
) -> errors.InvalidArgumentError:
    if not wrong:
        return failures.invalid_input(url, str(error).splitlines()[0])
    found = wrong[0]
    row = None if found.number is None else piece.first_row + found.number - 1
    what = f"has {found.actual_columns} fields, not {found.expected_columns}"
    return failures.invalid_input(url, what, row=row)
