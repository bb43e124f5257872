import asyncio
import contextlib
import io
import json
import os
import pathlib

import rich.console
from hypothesis import given
from hypothesis import strategies as st

from setpoint_devstack import logs


def test_reads_whole_lines_as_they_come(tmp_path: pathlib.Path) -> None:
    """A line is given once, when it is complete, in whatever pieces it was written."""
    path = tmp_path / "log"
    source = logs.LogFile(path)
    assert list(source.read()) == []
    with path.open("ab") as file:
        file.write(b"one\ntw")
        file.flush()
        assert list(source.read()) == ["one"]
        file.write("o ü\n".encode())
        file.flush()
        assert list(source.read()) == ["two ü"]
    assert list(source.read()) == []


def test_begins_anew_with_a_new_file(tmp_path: pathlib.Path) -> None:
    """A file replaced by a shorter one is read from its beginning."""
    path = tmp_path / "log"
    path.write_text("a long first line\n")
    source = logs.LogFile(path)
    assert list(source.read()) == ["a long first line"]
    path.write_text("new\n")
    assert list(source.read()) == ["new"]


def test_shows_a_line_that_never_ends(tmp_path: pathlib.Path) -> None:
    """Output without line ends is shown in pieces instead of being collected for ever."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * (logs.LONGEST_LINE_BYTES + 1))
    assert len(next(iter(logs.LogFile(path).read()))) == logs.LONGEST_LINE_BYTES + 1


def test_makes_a_json_line_readable() -> None:
    """Time, level, event and fields, without what every line repeats."""
    line = json.dumps(
        {
            "event": "record shipped",
            "level": "warning",
            "timestamp": "2013-01-01T12:34:56.789012Z",
            "service": "router",
            "records": 3,
            "why": "two words",
            "exception": "Traceback\n  boom",
        }
    )
    level, text = logs.readable(line)
    assert level == "warning"
    assert text == (
        '12:34:56.789 WARNI record shipped records=3 why="two words"\nTraceback\n  boom'
    )


@given(line=st.text())
def test_leaves_other_lines_alone(line: str) -> None:
    """Whatever else a process writes is shown as it is."""
    if not line.startswith("{"):
        assert logs.readable(line) == ("info", line)
    else:
        assert isinstance(logs.readable(line)[1], str)


async def test_merges_files_with_names_in_front(tmp_path: pathlib.Path) -> None:
    """Lines of all files come out, each with its writer's name, also the last ones."""
    files = {name: tmp_path / f"{name}.log" for name in ("router", "feature")}
    output = io.StringIO()
    follower = asyncio.create_task(
        logs.follow(files, logs.LogPrinter(logs.console_for(output), width=8))
    )
    files["router"].write_text("[bold]hello[/bold]\n")
    while "hello" not in output.getvalue():
        await asyncio.sleep(0.01)
    files["feature"].write_text('{"event": "bye", "level": "error"}\n')
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    assert output.getvalue().splitlines() == [
        "router   │ [bold]hello[/bold]",
        "feature  │ ERROR bye",
    ]


def test_colours_where_they_can_be_seen() -> None:
    """A terminal gets colours, one per name; a file gets plain text."""
    output = io.StringIO()
    console = rich.console.Console(file=output, force_terminal=True, highlight=False)
    logs.LogPrinter(console).print("router", "error", "boom")
    assert "\x1b[" in output.getvalue()


def test_goes_on_when_nobody_reads_any_more() -> None:
    """A closed pipe at the other end is no error, and is not written to again."""
    read, write = os.pipe()
    os.close(read)
    pipe = io.TextIOWrapper(io.FileIO(write, "w"), line_buffering=True)
    printer = logs.LogPrinter(logs.console_for(pipe))
    printer.print("router", "info", "nobody reads this")
    printer.print("router", "info", "nor this")
    with contextlib.suppress(BrokenPipeError):
        pipe.close()
