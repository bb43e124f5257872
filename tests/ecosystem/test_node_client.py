"""The router driven from another language: Node, with the contracts and packages from npm."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support import parcels
from tests.support import world as worlds

pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "node"
ENVIRONMENT = ROOT / "var" / "ecosystem" / "node"
INSTALL_SECONDS = 300
RUN_SECONDS = 120


@pytest.fixture(scope="module")
def installed() -> Path:
    """A folder with the client and the packages that it needs, kept between runs."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"this machine has no {' and no '.join(missing)}")
    ENVIRONMENT.mkdir(parents=True, exist_ok=True)
    for source in SOURCES.iterdir():
        shutil.copyfile(source, ENVIRONMENT / source.name)
    # Which packages are there already npm knows best; asking it again is quick.
    _run(INSTALL_SECONDS, "npm", "install", "--no-audit", "--no-fund", "--no-package-lock")
    return ENVIRONMENT


def _run(seconds: int, *command: str) -> str:
    finished = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds, cwd=ENVIRONMENT
    )
    assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


async def test_node_predicts_and_reads_errors(installed: Path, world: worlds.World) -> None:
    """Proves that Node gets the answers that Python gets, alone and in columns, and typed errors."""
    assert installed == ENVIRONMENT
    question = {
        "route": parcels.ROUTE,
        "assignment_key": "Zoë-1",
        "entities": {
            "depot": {"string_value": parcels.DEPOTS[0]},
            "crew": {"string_value": parcels.CREWS[0]},
        },
        "inputs": {
            "distance": {"double_value": 120.5},
            "kind": {"string_value": "box"},
            "hour": {"int_value": 3},
        },
        "event_time": parcels.midnight(world.days),
    }
    output = await asyncio.to_thread(
        _run,
        RUN_SECONDS,
        "node",
        "client.js",
        world.stack.addresses["router"],
        str(ROOT / "proto"),
        json.dumps(question),
    )
    told = json.loads(output)
    same = await world.client.predict(
        parcels.ROUTE,
        entities={"depot": parcels.DEPOTS[0], "crew": parcels.CREWS[0]},
        inputs={"distance": 120.5, "kind": "box", "hour": 3},
        event_time=parcels.midnight(world.days),
        assignment_key="Zoë-1",
    )
    assert told["answer"]["version"] == same.assignment.version
    assert told["answer"]["probability"] == pytest.approx(same.outputs["probability"], abs=1e-6)
    _check_batch(told["batch"], same.outputs["probability"])
    assert told["errors"] == {
        "route": _error("NOT_FOUND", "ROUTE_NOT_FOUND", told["errors"]["route"]["fields"]),
        "missing": _error("INVALID_ARGUMENT", "MISSING_FIELD", ['inputs["distance"]']),
        "type": _error("INVALID_ARGUMENT", "WRONG_TYPE", ['inputs["distance"]']),
    }
    asked = [told["answer"]["prediction_id"], *told["batch"]["prediction_id"]]
    await world.wait_for_records(asked)
    story = await world.client.get_prediction(asked[0])
    assert story.caller == "node"
    assert story.assignment_key == "Zoë-1"


def test_node_assigns_as_published(installed: Path) -> None:
    """Proves that an implementation in another language finds every published vector to hold."""
    assert installed == ENVIRONMENT
    told = json.loads(_run(RUN_SECONDS, "node", "vectors.js", str(ROOT / "proto")))
    vectors = json.loads((ROOT / "proto" / "vectors" / "assignment.json").read_text())
    assert told == {
        "slots": len(vectors["slots"]),
        "tables": sum(len(each["revisions"]) for each in vectors["tables"]),
        "layers": len(vectors["layers"]),
        "choices": len(vectors["route"]["choices"]),
    }


def _check_batch(batch: dict[str, list[Any]], probability: float) -> None:
    assert batch["status"] == [0, 0, 0]
    assert len(set(batch["prediction_id"])) == 3
    assert batch["probability"] == pytest.approx([probability] * 3, abs=1e-6)


def _error(code: str, reason: str, fields: list[str]) -> dict[str, Any]:
    return {"code": code, "reason": reason, "domain": "setpoint", "fields": fields}
