"""Repositories of Feast, read by its own Python in an environment of its own, and what they become here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from setpoint_cli import main
from setpoint_cli.feast import mapping, python_code, reader
from setpoint_cli.feast.mapping import Fit
from setpoint_columns import DataType

pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "feast"
ENVIRONMENT = ROOT / "var" / "ecosystem" / "feast"
INSTALL_SECONDS = 300
RUN_SECONDS = 120


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment with Feast; skips where it cannot be had."""
    found = ENVIRONMENT / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    wanted = str(SOURCES / "requirements-feast.txt")
    steps = [[*uv, "pip", "install", "--python", str(found), "--requirement", wanted]]
    if not found.exists():
        steps.insert(0, [*uv, "venv", "--clear", "--python", sys.executable, str(ENVIRONMENT)])
    for step in steps:
        finished = subprocess.run(
            step, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
        if finished.returncode:
            pytest.skip(f"Feast cannot be installed here: {finished.stderr.strip()[-300:]}")
    return found


@pytest.fixture(scope="module")
def drivers(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `feast init` makes."""
    folder = tmp_path_factory.mktemp("feast")
    run(str(python.parent / "feast"), "init", "drivers", folder=folder)
    return folder / "drivers"


def run(*command: str, folder: Path | None = None) -> str:
    """Runs a program without this environment's Python."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    finished = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        cwd=folder,
        env={**kept, "FEAST_USAGE": "False"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def read(python: Path, folder: Path) -> dict[str, Any]:
    """Returns what the reader tells of a repository."""
    told: dict[str, Any] = json.loads(run(str(python), str(Path(reader.__file__)), str(folder)))
    return told


@pytest.fixture(scope="module")
def shop(python: Path, tmp_path_factory: pytest.TempPathFactory) -> mapping.Mapped:
    """The repository of odd things, mapped."""
    folder = tmp_path_factory.mktemp("shop") / "shop"
    shutil.copytree(SOURCES / "shop", folder)
    return mapping.map_repository(read(python, folder), "shop", {})


def test_import_of_what_feast_makes(python: Path, drivers: Path, tmp_path: Path) -> None:
    """The command tells and writes what `feast init` makes, and leaves the repository as it was."""
    before = {path: path.read_bytes() for path in drivers.rglob("*") if path.is_file()}
    output = tmp_path / "drivers.py"
    arguments = [str(drivers), "--python", str(python), "--output", str(output)]
    done = CliRunner().invoke(main.app, ["features", "import-feast", *arguments])
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    for line in (
        "entity driver → entity driver",
        "field driver_hourly_stats.driver_metadata",
        "on-demand view transformed_conv_rate → transformation conv_rate_plus_val1, conv_rate_plus_val2",
        "feature service driver_activity_v1 → feature set driver_activity_v1",
        "label view driver_quality_labels",
    ):
        assert line in told
    after = {path: path.read_bytes() for path in drivers.rglob("*") if path.is_file()}
    assert after == before
    scope: dict[str, Any] = {"__name__": "drivers"}
    exec(output.read_text(encoding="utf-8"), scope)  # noqa: S102  # What a user would import.
    # Nobody says the key's type: Feast finds it in the file, and so does the reader.
    assert scope["driver"].keys == {"driver_id": DataType.INT64}
    assert [each.field for each in scope["driver_activity_v1"].features] == ["conv_rate"]


def test_rewritten_functions_answer_as_feast(python: Path, drivers: Path, tmp_path: Path) -> None:
    """What an on-demand view computes in Feast, the transformation that it becomes computes from the same rows."""
    repository = tmp_path / "drivers"
    shutil.copytree(drivers / "feature_repo", repository)
    told = read(python, repository)
    mapped = mapping.map_repository(told, "drivers", {})
    stats = pl.read_parquet(repository / "data" / "driver_stats.parquet")
    known = stats.filter(pl.col("driver_id") == 1001).sort("event_timestamp").tail(20)
    times = known["event_timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    frame = {
        "driver_id": [1001] * known.height,
        "event_timestamp": times.to_list(),
        "val_to_add": list(range(known.height)),
        "val_to_add_2": [10] * known.height,
    }
    question = json.dumps({"service": "driver_activity_v1", "frame": frame})
    answered = json.loads(run(str(python), str(SOURCES / "answers.py"), str(repository), question))
    assert len(answered) == known.height
    scope: dict[str, Any] = {"__name__": "drivers"}
    exec(python_code.write(mapped, "drivers"), scope)  # noqa: S102  # What a user would import.
    columns = {name: np.array([row[name] for row in answered]) for name in answered[0]}
    for name, given in (
        ("conv_rate_plus_val1", "val_to_add"),
        ("conv_rate_plus_val2", "val_to_add_2"),
    ):
        np.testing.assert_allclose(scope[name](columns["conv_rate"], columns[given]), columns[name])


@pytest.mark.parametrize(
    ("thing", "fit", "becomes", "reason"),
    [
        ("entity customer", Fit.EXACT, "entity customer", ""),
        ("entity Merchant", Fit.APPROXIMATE, "entity merchant", "it is called merchant"),
        ("entity Merchant, customer", Fit.EXACT, "entity merchant-customer", ""),
        ("entity raw", Fit.NONE, "", "raw_id is of type Bytes"),
        ("entity nowhere", Fit.NONE, "", "--key-type nowhere_id=int64"),
        ("field pairs.taste", Fit.NONE, "", "Array(Float32)"),
        ("field pairs.last_visit", Fit.APPROXIMATE, "last_visit TIMESTAMP", "whole seconds"),
        ("field weather.event_time", Fit.APPROXIMATE, "event_time_ FLOAT32", "it is called"),
        ("view spending", Fit.APPROXIMATE, "view spending of customer", "'not a tag'"),
        ("view pairs", Fit.APPROXIMATE, "view pairs of merchant-customer", "counts to the microsecond"),
        ("view weather", Fit.APPROXIMATE, "view weather of place", "no time of creation"),
        ("view World Wide", Fit.APPROXIMATE, "view world_wide of global", "it is called world_wide"),
        ("view unsaid", Fit.NONE, "", "unsaid.parquet"),
        ("view of_bytes", Fit.NONE, "", "its entity raw does not map"),
        ("view daily", Fit.APPROXIMATE, "view daily of customer", "computed before they are written"),
        ("view hourly", Fit.APPROXIMATE, "view hourly of customer", "sum(amount)"),
        ("on-demand view headroom", Fit.APPROXIMATE, "transformation left, log_amount", "compare"),
        ("on-demand view by_rows", Fit.APPROXIMATE, "transformation mean", "compare"),
        ("on-demand view one_row", Fit.APPROXIMATE, "transformation twice", "compare"),
        ("on-demand view filled", Fit.NONE, "", "fillna"),
        ("feature service route", Fit.EXACT, "feature set route", ""),
        ("feature service decide", Fit.APPROXIMATE, "feature set decide", "it holds amount as well"),
        ("feature service by_text", Fit.APPROXIMATE, "feature set by_text", "not as version 3"),
        ("feature service Mixed Up", Fit.APPROXIMATE, "feature set mixed_up", "without filled"),
        ("source orders", Fit.NONE, "", "ordered_at as event_time, seen_at as created_time, amt as amount"),
        ("source asked", Fit.EXACT, "request fields", ""),
        ("label view labels", Fit.NONE, "", "IngestOutcomes"),
        ("permission readers", Fit.NONE, "", "gateway"),
    ],
)  # fmt: skip
def test_odd_things(shop: mapping.Mapped, thing: str, fit: Fit, becomes: str, reason: str) -> None:
    """Everything that a repository can hold gets the verdict that it deserves, and the reason."""
    [found] = [each for each in shop.findings if f"{each.kind} {each.name}" == thing]
    assert found.fit is fit
    assert found.becomes.startswith(becomes)
    assert reason in "; ".join(found.reasons)
    assert bool(found.reasons) == (fit is not Fit.EXACT)


def test_nothing_is_left_unsaid(python: Path, shop: mapping.Mapped, tmp_path: Path) -> None:
    """Every entity, view, service and source of the repository is told of, once."""
    folder = tmp_path / "shop"
    shutil.copytree(SOURCES / "shop", folder)
    told = read(python, folder)
    assert told["project"] == "shop"
    names = [f"{each.kind} {each.name}" for each in shop.findings]
    assert len(set(names)) == len(names)
    kinds = {
        "entities": "entity",
        "views": "view",
        "on_demand": "on-demand view",
        "services": "feature service",
        "sources": "source",
    }
    for part, kind in kinds.items():
        assert told[part]
        assert {f"{kind} {each['name']}" for each in told[part]} <= set(names)


def test_a_broken_repository_is_named(python: Path, tmp_path: Path) -> None:
    """A module that cannot be imported ends the command with Feast's own complaint."""
    shutil.copy(SOURCES / "shop" / "feature_store.yaml", tmp_path)
    (tmp_path / "broken.py").write_text("raise ValueError('no such table')\n")
    arguments = ["features", "import-feast", str(tmp_path), "--python", str(python)]
    done = CliRunner().invoke(main.app, arguments)
    assert done.exit_code == 1
    assert "no such table" in done.stderr
