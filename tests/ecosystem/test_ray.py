"""Batch predictions on Ray, started by the test on this machine, in an environment of its own."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from setpoint_batch import testing
from setpoint_batch.partition import results, tasks

pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "ray"
ENVIRONMENT = ROOT / "var" / "ecosystem" / "ray"
REQUIREMENTS = ROOT / "deploy" / "docker" / "requirements"
INSTALL_SECONDS = 400
RUN_SECONDS = 180
ROWS = 1_000


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment with the batch service and Ray; skips where there is none."""
    found = ENVIRONMENT / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    install = [*uv, "pip", "install", "--python", str(found)]
    lines = (REQUIREMENTS / "batch.members.txt").read_text(encoding="utf-8").splitlines()
    members = [line for line in lines if line.startswith("./")]
    steps = [
        [*install, "--requirement", str(REQUIREMENTS / "batch.txt")],
        [*install, "--no-deps", *(part for line in members for part in ("--editable", line))],
        [*install, "--requirement", str(SOURCES / "requirements-ray.txt")],
    ]
    if not found.exists():
        steps.insert(0, [*uv, "venv", "--clear", "--python", sys.executable, str(ENVIRONMENT)])
    for step in steps:
        finished = subprocess.run(
            step, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS, cwd=ROOT
        )
        if finished.returncode:
            pytest.skip(f"Ray cannot be installed here: {finished.stderr.strip()[-300:]}")
    return found


def here(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Score all partitions in this process."""

    def done(kind: str, **more: Any) -> dict[str, Any]:
        return results.result_of(tasks.run({**task, "kind": kind, **more}))

    plan = done("plan")
    return [
        done("score", partition=each, file=plan["files"][each["file"]], form=plan["form"])
        for each in plan["partitions"]
    ]


async def test_parts_are_the_same(python: Path, tmp_path: Path) -> None:
    """Ray writes the very parts that this process writes; errors come back typed, a cancel ends work."""
    numbers = np.arange(ROWS, dtype=np.float64)
    source = tmp_path / "in.parquet"
    pl.DataFrame({"a": numbers, "b": numbers / 2}).write_parquet(source, row_group_size=100)
    expected = await asyncio.to_thread(here, testing.task(tmp_path / "here", source))
    pipe = tmp_path / "endless.csv"
    os.mkfifo(pipe)
    question: dict[str, Any] = {
        "task": testing.task(tmp_path / "there", source),
        "endless": testing.task(tmp_path / "there", pipe, name="endless"),
        "pipe": str(pipe),
    }
    question["endless"]["output_url"] = f"file://{tmp_path}/endless"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    finished = await asyncio.to_thread(
        subprocess.run,
        [str(python), str(SOURCES / "work.py"), json.dumps(question)],
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        # Ray reports home unless told otherwise.
        env={**kept, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told["parts"] == expected
    assert told["refused"] == "OUTPUT_EXISTS"
    assert told["cancelled"] == "CancelledError"
    assert told["after"] == told["manifest_url"]
    found = pl.read_parquet(tmp_path / "there" / "out" / "*.parquet")
    assert found["score"].to_list() == (numbers * 2 + 0.5).tolist()
