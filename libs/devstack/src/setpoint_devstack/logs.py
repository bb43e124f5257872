"""The log files of a stack, merged into lines that people read."""

import asyncio
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import rich.console
import rich.text

POLL_SECONDS = 0.1
CHUNK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 64 * 1024
NAME_WIDTH = 10
"""Room for the longest name of a service."""
COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_magenta")
LEVEL_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}
HIDDEN_FIELDS = frozenset({"event", "level", "timestamp", "service", "version", "logger"})
"""Shown in another way, or the same in every line of a service."""


class LogFile:
    """Reads what is appended to one file, in whole lines."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""

    def read(self) -> Iterator[str]:
        """Gives the lines that were completed since the last time."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._position:
                    # A new file under the old name.
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")


def readable(line: str) -> tuple[str, str]:
    """Returns the level and the text of a log line; one that is no JSON object stays as it is."""
    fields = _fields(line)
    if fields is None:
        return "info", line
    level = str(fields.get("level", "info"))
    time = str(fields.get("timestamp", ""))
    moment = time[11:23] if time[10:11] == "T" else time
    shown = [part for part in (moment, level.upper()[:5].ljust(5), str(fields["event"])) if part]
    shown += [
        f"{name}={_value(value)}"
        for name, value in fields.items()
        if name not in HIDDEN_FIELDS and name != "exception"
    ]
    text = " ".join(shown)
    if "exception" in fields:
        text += f"\n{fields['exception']}"
    return level, text


def _fields(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and "event" in fields else None


def _value(value: Any) -> str:
    if isinstance(value, str) and value and " " not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


class LogPrinter:
    """Prints lines with the name of who wrote them in front, in a colour of its own.

    Args:
        console: where to; colours are left out where they cannot be shown.
        width: room for the longest name.
    """

    def __init__(self, console: rich.console.Console, width: int = NAME_WIDTH) -> None:
        self._console = console
        self._width = width
        self._is_closed = False

    def print(self, name: str, level: str, text: str) -> None:
        """Prints one entry; further lines of it are indented below."""
        if self._is_closed:
            return
        try:
            self._print(name, level, text)
        except OSError:
            # The terminal or the reader of a pipe is gone; stopping in order matters more.
            self._is_closed = True

    def _print(self, name: str, level: str, text: str) -> None:
        colour = COLOURS[zlib.crc32(name.encode()) % len(COLOURS)]
        for number, line in enumerate(text.split("\n")):
            label = name if number == 0 else ""
            self._console.print(
                rich.text.Text.assemble(
                    (f"{label:<{self._width}} │ ", colour), (line, LEVEL_STYLES.get(level, ""))
                ),
                soft_wrap=True,
            )


async def follow(files: Mapping[str, pathlib.Path], printer: LogPrinter) -> None:
    """Prints what is appended to the files until cancelled, then what is left.

    Services write to their files and not to us: a terminal that is held up stops no service.
    """
    sources = {name: LogFile(path) for name, path in files.items()}
    try:
        while True:
            _print_new(sources, printer)
            await asyncio.sleep(POLL_SECONDS)
    finally:
        _print_new(sources, printer)


def _print_new(sources: Mapping[str, LogFile], printer: LogPrinter) -> None:
    for name, source in sources.items():
        for line in source.read():
            printer.print(name, *readable(line))


class _Console(rich.console.Console):
    """A console that tells its user when nobody reads any more, instead of ending the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console_for(stream: IO[str]) -> rich.console.Console:
    """Returns a console that leaves the text itself alone: no markup, no highlighting."""
    return _Console(file=stream, highlight=False, markup=False, emoji=False)
