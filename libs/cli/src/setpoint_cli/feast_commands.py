"""Coming from Feast: ``features import-feast``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from setpoint_cli.feast import mapping, python_code, reader, rewriting
from setpoint_cli.session import EXIT_FAILED, console, problems
from setpoint_columns import DataType

READ_SECONDS = 300.0
MODULE = "feast_features"
"""Where functions would be, when nothing is written."""
_KEY_TYPES = {"int32": DataType.INT32, "int64": DataType.INT64, "string": DataType.STRING}
_COLOURS = {mapping.Fit.EXACT: "green", mapping.Fit.APPROXIMATE: "yellow", mapping.Fit.NONE: "red"}
_SHOWN_LINES = 12
_NARROW = 60


def import_feast(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            exists=True,
            file_okay=False,
            help="Folder of a Feast repository: that of its feature_store.yaml, or the one around it.",
        ),
    ],
    python: Annotated[
        str | None,
        typer.Option(
            metavar="PROGRAM",
            help="Python of the environment that has Feast; by default the first python of PATH.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Python module to write what maps into, for setpoint features apply; a new file.",
        ),
    ] = None,
    key_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=TYPE",
            help="Type of a join key that the repository does not tell: int32, int64 or string.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also show the fields that map exactly.")
    ] = False,
) -> None:
    """Read a Feast repository and tell what maps exactly, approximately, or not at all, and why.

    Its modules are imported by its own Python, as feast apply does; nothing is applied or written there.

    Example: setpoint features import-feast driver_stats --python .venv/bin/python --output drivers.py
    """
    key_types = _key_types(key_type or [])
    if output is not None:
        _check_output(output)
    told = _read(path, python or shutil.which("python") or sys.executable)
    mapped = mapping.map_repository(told, output.stem if output else MODULE, key_types)
    _report(mapped, everything=everything)
    if output is not None:
        output.write_text(python_code.write(mapped, told["project"]), encoding="utf-8")
        _say(f"written to {output}; apply it with: setpoint features apply {output}", 0)
        if mapped.functions:
            _say(
                f"the feature service must have it, too: SETPOINT_FEATURE_MODULES={output.stem}", 0
            )


def _key_types(pairs: Sequence[str]) -> dict[str, DataType]:
    types = {}
    for pair in pairs:
        key, _, name = pair.partition("=")
        if not key or name not in _KEY_TYPES:
            rule = f"{pair!r} must be a key, =, and one of {', '.join(_KEY_TYPES)}"
            raise typer.BadParameter(rule, param_hint="--key-type")
        types[key] = _KEY_TYPES[name]
    return types


def _check_output(output: Path) -> None:
    if output.suffix != ".py" or rewriting.identifier(output.stem) != output.stem:
        raise typer.BadParameter(
            f"{str(output)!r} must be a module, such as drivers.py", param_hint="--output"
        )
    if output.exists():
        raise typer.BadParameter(f"{str(output)!r} is there already", param_hint="--output")


def _read(path: Path, python: str) -> Any:
    """Has a repository told by the Python that has Feast; ends the command where that fails."""
    try:
        finished = subprocess.run(
            [python, str(Path(reader.__file__)), str(path)],
            check=False,
            capture_output=True,
            text=True,
            timeout=READ_SECONDS,
            # Some versions of Feast tell their makers what is done with them.
            env={**os.environ, "FEAST_USAGE": "False"},
        )
    except FileNotFoundError:
        raise typer.BadParameter(f"there is no {python!r}", param_hint="--python") from None
    except subprocess.TimeoutExpired:
        _end(f"reading {path} took more than {READ_SECONDS:.0f} seconds", "")
    if finished.returncode == reader.EXIT_NO_FEAST:
        _end(
            f"{python} cannot import Feast: name the Python that has it with --python",
            finished.stderr,
        )
    if finished.returncode == reader.EXIT_NO_REPOSITORY:
        _end(f"{path} is no Feast repository: it has no {reader.CONFIGURATION}", "")
    if finished.returncode != 0:
        _end(f"{path} cannot be read by Feast", finished.stderr)
    return json.loads(finished.stdout)


def _end(message: str, details: str) -> NoReturn:
    problems.print(f"[red]failed[/]: {escape(message)}", highlight=False, soft_wrap=True)
    for line in details.strip().splitlines()[-_SHOWN_LINES:]:
        problems.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)


def _report(mapped: mapping.Mapped, *, everything: bool) -> None:
    for fit in mapping.Fit:
        found = [each for each in mapped.findings if each.fit is fit]
        shown = [each for each in found if everything or not _is_dull(each)]
        hidden = len(found) - len(shown)
        more = f"; fields of the same name and type are not shown: {hidden}" if hidden else ""
        console.print(f"[bold {_COLOURS[fit]}]{fit}[/] ({len(found)}{more})", highlight=False)
        for each in shown:
            _say(f"{each.kind} {each.name}" + (f" → {each.becomes}" if each.becomes else ""), 2)
            for reason in each.reasons:
                _say(f"- {reason}", 4)
    console.print("[bold]for everything[/]")
    for difference in mapping.GENERAL:
        _say(f"- {' '.join(difference.split())}", 2)


def _is_dull(finding: mapping.Finding) -> bool:
    return finding.kind == "field" and finding.fit is mapping.Fit.EXACT


def _say(text: str, indent: int) -> None:
    line = textwrap.fill(
        text,
        max(console.width, _NARROW),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print(line, markup=False, highlight=False, soft_wrap=True)
