"""The command line without a stack: help, wrong usage, exit codes."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from setpoint_cli import main, session
from setpoint_runtime import errors

COMMANDS = (
    "up",
    "demo",
    "predict",
    "explain",
    "shadow",
    "models",
    "routes",
    "features",
    "drift",
    "retrain",
    "approve",
    "batch-predict",
    "batches",
)
RUNNER = CliRunner()


def test_help_lists_every_command() -> None:
    """The help of the whole names each command."""
    shown = RUNNER.invoke(main.app, ["--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example(name: str) -> None:
    """Each command shows how it is used."""
    shown = RUNNER.invoke(main.app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"setpoint {name}" in " ".join(shown.output.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "route", "--entity", "carrier"],
        ["predict", "route", "--time", "yesterday"],
        ["drift", "model", "0", "--since", "2013-01-01", "--until", "2013-02-01"],
        ["demo", "--share", "2"],
        ["batch-predict", "in.csv", "out"],
        ["batch-predict", "in-{date}.csv", "out", "--model", "late"],
        ["batch-predict", "in.csv", "out", "--model", "late", "--version", "1", "--alias", "a"],
        ["batches", "--cancel"],
        ["features", "explain", "temp"],
        ["features", "skew", "--replay", "--share", "2"],
        ["features", "leaks", "table.xls"],
        ["features", "snapshot", "create", "nowhere.csv", "--feature-set", "x"],
        ["features", "leaks", "nowhere.parquet"],
        ["features", "leaks", "t.csv", "--column", "a=b"],
        ["features", "explain", "set.temp", "--time", "yesterday"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], tmp_path: Path) -> None:
    """What the command cannot read is wrong usage."""
    assert RUNNER.invoke(main.app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFoundError(errors.Reason.ROUTE_NOT_FOUND, "no route"), session.EXIT_NOT_FOUND),
        (errors.UnavailableError(errors.Reason.UNAVAILABLE, "away"), session.EXIT_UNAVAILABLE),
        (errors.invalid("inputs", 1, "must not be"), session.EXIT_FAILED),
    ],
)
def test_session_exit_codes(
    error: errors.SetpointError, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of failure has its exit code, and the message says the reason."""
    with pytest.raises(typer.Exit) as ended, session.session(tmp_path):
        raise error
    assert ended.value.exit_code == code
    assert error.reason in capsys.readouterr().err


@pytest.mark.parametrize("name", ["explain", "skew", "leaks", "snapshot"])
def test_help_of_features_has_an_example(name: str) -> None:
    """Each command below ``features`` shows how it is used."""
    shown = RUNNER.invoke(main.app, ["features", name, "--help"])
    assert shown.exit_code == 0
    assert f"setpoint features {name}" in " ".join(shown.output.split())


def test_exact_time_keeps_microseconds() -> None:
    """A time is written as exactly as it is, also one that no calendar has."""
    assert session.exact_time(1_372_939_200_000_000) == "2013-07-04 12:00:00"
    assert session.exact_time(1_372_939_200_250_000) == "2013-07-04 12:00:00.25"
    assert session.exact_time(2**62) == f"{2**62} µs"


def test_read_values_tells_numbers_from_text() -> None:
    """Numbers, truth values and null are read as such, everything else is text."""
    given = ["a=1", "b=1.5", "c=true", "d=null", "e=UA", "f=[1]", "g=x=y", 'h="1"']
    assert session.read_values("--input", given) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": None,
        "e": "UA",
        "f": "[1]",
        "g": "x=y",
        "h": "1",
    }


def test_read_time_is_utc_unless_it_says_otherwise() -> None:
    """A time without a zone is UTC; what is shown reads back as the same."""
    time = session.read_time("--time", "2013-07-04T12:00")
    assert time == session.read_time("--time", "2013-07-04T14:00+02:00")
    assert session.show_time(time) == "2013-07-04 12:00"
    assert session.read_time("--time", None) == 0
