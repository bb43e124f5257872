import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from setpoint_cli import main
from setpoint_cli.feast import reader
from setpoint_cli.feast import testing as feast

RUNNER = CliRunner()
REPOSITORY = feast.repository(
    entities=[feast.entity("driver", "driver_id", "UNKNOWN")],
    views=[feast.view("trips", ["driver"], [feast.field("rate"), feast.field("more", "Map")])],
    services=[feast.service("late", [feast.taken("trips", ["rate"])])],
)


def stand_in(folder: Path, code: int, told: str = "", complaint: str = "") -> str:
    """Makes a program that ends as Feast's Python does when it is given the reader."""
    program = folder / "python"
    program.write_text(
        f"#!/bin/sh\ncat <<'END'\n{told}\nEND\necho '{complaint}' >&2\nexit {code}\n"
    )
    program.chmod(0o755)
    return str(program)


def run(*arguments: str) -> tuple[int, str, str]:
    done = RUNNER.invoke(main.app, ["features", "import-feast", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_import_feast_tells_and_writes(tmp_path: Path) -> None:
    """Everything that is told gets its verdict, and what maps is written as a module."""
    python = stand_in(tmp_path, 0, json.dumps(REPOSITORY))
    output = tmp_path / "drivers.py"
    code, told, _ = run(
        str(tmp_path), "--python", python, "--key-type", "driver_id=string", "--output", str(output)
    )
    assert code == 0
    for line in (
        "exactly (3; fields of the same name and type are not shown: 1)",
        "approximately (1)",
        "not at all (1)",
        "view trips → view trips of driver",
        "- without more",
        "field trips.more",
        "- there are no values of type Map here",
    ):
        assert line in told
    assert "rate FLOAT32" not in told
    assert f"setpoint features apply {output}" in " ".join(told.split())
    assert "SETPOINT_FEATURE_MODULES" not in told
    assert 'driver = Entity("driver", {"driver_id": DataType.STRING})' in output.read_text()


def test_import_feast_shows_all(tmp_path: Path) -> None:
    """Fields that map exactly are shown when they are asked for; without an output nothing is written."""
    python = stand_in(tmp_path, 0, json.dumps(REPOSITORY))
    before = sorted(tmp_path.iterdir())
    code, told, _ = run(str(tmp_path), "--python", python, "--key-type", "driver_id=int64", "--all")
    assert code == 0
    assert "field trips.rate → rate FLOAT32" in told
    assert "not shown" not in told
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (reader.EXIT_NO_FEAST, "cannot import Feast: name the Python"),
        (reader.EXIT_NO_REPOSITORY, "has no feature_store.yaml"),
        (1, "cannot be read by Feast"),
    ],
)
def test_import_feast_fails_clearly(tmp_path: Path, ended: int, told: str) -> None:
    """Without Feast, a repository, or one that can be imported, the command says which and ends with 1."""
    python = stand_in(tmp_path, ended, complaint="no module named x")
    code, _, said = run(str(tmp_path), "--python", python)
    assert code == 1
    assert told in said
    if ended == 1:
        assert "no module named x" in said


def test_import_feast_without_feast(tmp_path: Path) -> None:
    """A real Python that has no Feast is told apart from a repository that is broken."""
    code, _, said = run(str(tmp_path), "--python", sys.executable)
    assert code == 1
    assert "cannot import Feast" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-folder"],
        [".", "--python", "no-such-program"],
        [".", "--output", "definitions.yaml"],
        [".", "--output", "not-a-module.py"],
        [".", "--output", "conftest.py"],
        [".", "--key-type", "driver_id"],
        [".", "--key-type", "driver_id=float"],
    ],
)
def test_import_feast_wrong_usage(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be meant is wrong usage, and no file is ever overwritten."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conftest.py").touch()
    assert run(*arguments)[0] == 2
