"""Repositories of Feast, read by its own Python in an environment of its own, and what they become here."""

import asyncio
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
from setpoint_cli.feast import mapping, reader
from setpoint_cli.feast.mapping import Fit
from setpoint_client import AsyncClient
from setpoint_columns import DataType
from setpoint_devstack import stack as stacks

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


async def test_imported_repository_answers_as_feast(
    python: Path, drivers: Path, tmp_path: Path
) -> None:
    """What is imported, applied and filled with the rows of Feast's file joins what Feast joins, functions included."""
    repository = tmp_path / "drivers"
    shutil.copytree(drivers / "feature_repo", repository)
    module = tmp_path / "code" / "drivers.py"
    module.parent.mkdir()
    await command("import-feast", str(repository), "--python", str(python), "--output", str(module))
    stats = pl.read_parquet(repository / "data" / "driver_stats.parquet")
    spine = spine_of(stats)
    expected = await asyncio.to_thread(feast_answers, python, repository, spine)
    tmp_path.chmod(0o755)
    modules = {"SETPOINT_FEATURE_MODULES": "drivers", "PYTHONPATH": str(module.parent)}
    house = stacks.Stack(tmp_path / "stack", ("feature",), default_ports=False, environment=modules)
    async with house, AsyncClient(feature_address=house.addresses["feature"]) as client:
        await command("apply", str(module), "--yes", "--stack", str(house.directory))
        await client.write_features("driver_hourly_stats", rows_of(stats))
        # As Feast does unless it is asked otherwise: the file says that all rows were created just now.
        found = await client.get_historical_features(SERVICE, spine, as_of_event_time=True)
    assert found.frame.height == expected.height == spine.height
    order = ["driver_id", "event_time"]
    ours, theirs = found.frame.sort(order), expected.sort(order)
    for name in (
        "conv_rate",
        "acc_rate",
        "avg_daily_trips",
        "conv_rate_plus_val1",
        "conv_rate_plus_val2",
    ):
        assert not ours[name].null_count()
        np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy())
    assert ours["driver_config"].to_list() == theirs["driver_config"].to_list()


SERVICE = "driver_activity_v2"
_UTC = pl.Datetime("us", "UTC")


async def command(*arguments: str) -> None:
    """Runs a command of `setpoint features`; it succeeds."""
    done = await asyncio.to_thread(CliRunner().invoke, main.app, ["features", *arguments])
    assert done.exit_code == 0, done.output


def spine_of(stats: pl.DataFrame) -> pl.DataFrame:
    """Returns times at, between and within a day after the rows of every driver, with request columns."""
    times = [pl.col("event_timestamp") + pl.duration(seconds=after) for after in (0, 1, 1_799)]
    latest = stats.sort("event_timestamp").group_by("driver_id", maintain_order=True).tail(30)
    asked = pl.concat([latest.select("driver_id", event_time=time.cast(_UTC)) for time in times])
    asked = asked.unique(["driver_id", "event_time"]).sort("event_time")
    return asked.with_columns(
        val_to_add=pl.int_range(asked.height, dtype=pl.Int64),
        val_to_add_2=pl.lit(10, dtype=pl.Int64),
    )


def rows_of(stats: pl.DataFrame) -> pl.DataFrame:
    """Returns the rows of the file as the report of the import says to write them."""
    return stats.select(
        "driver_id",
        "conv_rate",
        "acc_rate",
        pl.col("avg_daily_trips").cast(pl.Int64),
        "driver_config",
        event_time=pl.col("event_timestamp").cast(_UTC),
        created_time=pl.col("created").dt.replace_time_zone("UTC").cast(_UTC),
    )


def feast_answers(python: Path, repository: Path, spine: pl.DataFrame) -> pl.DataFrame:
    """Returns what Feast joins to a spine."""
    named = spine.with_columns(
        event_timestamp=pl.col("event_time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    ).drop("event_time")
    question = json.dumps({"service": SERVICE, "frame": named.to_dict(as_series=False)})
    told = json.loads(run(str(python), str(SOURCES / "answers.py"), str(repository), question))
    time = pl.from_epoch("event_timestamp", "ms").cast(_UTC).alias("event_time")
    return pl.DataFrame(told, infer_schema_length=None).with_columns(time)


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
