"""Clients of other servers, as they are published, ask router and inference; and MLServer is asked.

Each package lives in an environment of its own below `var/`, made by the test and kept between runs.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from tests.support import parcels
from tests.support import world as worlds

from setpoint_columns import Columns, DataType
from setpoint_oip.client import OipClient
from setpoint_oip.conformance import suite
from setpoint_oip.conformance.subject import Subject
from setpoint_oip.datatypes import DATATYPES
from setpoint_oip.layout import Held
from setpoint_oip.tensors import Tensor
from setpoint_rpc import channel
from setpoint_runtime import errors
from setpoint_testkit import free_port

pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "oip"
ENVIRONMENTS = ROOT / "var" / "ecosystem"
INSTALL_SECONDS = 300
RUN_SECONDS = 120


def environment(name: str) -> Path:
    """Return the interpreter of an environment with a package; skip where it cannot be had."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    wanted = str(SOURCES / f"requirements-{name}.txt")
    steps = [[*uv, "pip", "install", "--python", str(python), "--requirement", wanted]]
    if not python.exists():
        steps.insert(0, [*uv, "venv", "--clear", "--python", sys.executable, str(folder)])
    for step in steps:
        finished = subprocess.run(
            step, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
        if finished.returncode:
            pytest.skip(f"{name} cannot be installed here: {finished.stderr.strip()[-300:]}")
    return python


async def answers(python: Path, script: str, question: dict[str, Any]) -> Any:
    """Return what a client is told, asked in a process of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    finished = await asyncio.to_thread(
        subprocess.run,
        [str(python), str(SOURCES / script), json.dumps(question)],
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        env=kept,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)


# A question about two parcels, with every input of the model.
COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "queue": ("FP64", [3.0, 7.0]),
    "staff": ("FP64", [4.0, 2.0]),
    "sick_share": ("FP64", [0.1, 0.25]),
    "distance": ("FP64", [120.5, 80.0]),
    "kind": ("BYTES", ["box", "pallet"]),
    "hour": ("INT64", [3, 17]),
}
SERVERS = {"router": parcels.ROUTE, "inference": parcels.MODEL}


@dataclass
class Expected:
    """What our own client is told."""

    address: str
    model: str
    described: Any
    version: str
    outputs: dict[str, list[Any]]

    def question(self, **fields: Any) -> dict[str, Any]:
        """Return the question as the scripts take it."""
        return {"address": self.address, "model": self.model, "columns": COLUMNS} | fields

    def tensors(self, side: str) -> list[tuple[str, str, list[int]]]:
        """Return the description of inputs or outputs."""
        found = getattr(self.described, side)
        return [(each.name, each.datatype.name, [*each.shape]) for each in found]


@pytest.fixture(params=SERVERS)
async def expected(request: Any, world: worlds.World) -> Expected:
    """Router or inference with what our own client is told."""
    address, model = world.stack.addresses[request.param], SERVERS[request.param]
    given = [
        Tensor(name, DATATYPES[kind], np.array(values, object if kind == "BYTES" else None))
        for name, (kind, values) in COLUMNS.items()
    ]
    async with channel.connect(address, client="test") as opened:
        client = OipClient(opened)
        answer = await client.infer(model, given)
        described = await client.metadata(model)
    outputs = {name: each.array.tolist() for name, each in answer.outputs.items()}
    return Expected(address, model, described, answer.version, outputs)


async def test_tritonclient_works_unchanged(expected: Expected, world: worlds.World) -> None:
    """Proves that tritonclient, blocking and awaiting, gets the answers that our client gets."""
    python = environment("triton")
    is_router = expected.address == world.stack.addresses["router"]
    question = expected.question(parameters={"setpoint_event_time": parcels.midnight(world.days)})
    if not is_router:
        question = expected.question(repository=expected.version)
    told = await answers(python, "triton_client.py", question)
    assert [told[name] for name in ("is_live", "is_ready", "is_model_ready")] == [True] * 3
    assert told["is_unknown_ready"] is False
    assert told["server"]["name"] == ("setpoint-router" if is_router else "setpoint-inference")
    for side in ("inputs", "outputs"):
        assert [
            (each["name"], each["datatype"], [int(size) for size in each["shape"]])
            for each in told["metadata"][side]
        ] == expected.tensors(side)
    assert told["order"] == [each.name for each in expected.described.outputs][::-1]
    for at, answer in enumerate([told["answer"], *told["aio"]]):
        assert answer["outputs"] == expected.outputs
        assert answer["version"] == expected.version
        assert answer["id"] == ("mine" if at == 0 else str(at - 1))
    assert told["unknown_model"] == "NOT_FOUND"
    assert told["unknown_input"] == told["unknown_output"] == "INVALID_ARGUMENT"
    if is_router:
        sent = told["answer"]["parameters"]
        ids = sent["setpoint_prediction_id"]["string_param"].split(",")
        assert len(ids) == 2
        await world.wait_for_records(ids)
        story = await world.client.get_prediction(ids[0])
        assert story.event_time.timestamp() * 1e6 == parcels.midnight(world.days)
    else:
        assert told["repository"] == [["READY"], [], ["READY"]]


async def test_tritonclient_has_features_fetched(world: worlds.World) -> None:
    """Proves that entities in parameters lead to the features, version and answer of Predict."""
    python = environment("triton")
    keys = {"depot": parcels.DEPOTS[0], "crew": parcels.CREWS[0]}
    inputs = {"distance": 120.5, "kind": "box", "hour": 3}
    same = await world.client.predict(
        parcels.ROUTE,
        entities=keys,
        inputs=inputs,
        event_time=parcels.midnight(world.days),
        assignment_key="Zoë-1",
    )
    question = {
        "address": world.stack.addresses["router"],
        "model": parcels.ROUTE,
        "columns": {name: (COLUMNS[name][0], [value]) for name, value in inputs.items()},
        "parameters": {
            "setpoint_assignment_key": "Zoë-1",
            "setpoint_event_time": parcels.midnight(world.days),
            **{f"setpoint_entity_{name}": value for name, value in keys.items()},
        },
    }
    told = (await answers(python, "triton_client.py", question))["answer"]
    assert told["version"] == str(same.assignment.version)
    assert told["parameters"]["setpoint_slot"]["int64_param"] == str(same.assignment.slot)
    [probability] = {name: each[0][-1] for name, each in told["outputs"].items()}.values()
    assert probability == pytest.approx(same.outputs["probability"], abs=1e-6)


async def test_mlserver_stubs_work_unchanged(expected: Expected, world: worlds.World) -> None:
    """Proves that MLServer's stubs and codecs, raw and typed, get the answers that our client gets."""
    python = environment("mlserver")
    is_router = expected.address == world.stack.addresses["router"]
    question = expected.question(repository=not is_router)
    told = await answers(python, "mlserver_client.py", question)
    assert [told[name] for name in ("is_live", "is_ready", "is_model_ready")] == [True] * 3
    for side in ("inputs", "outputs"):
        assert [
            (each["name"], each["datatype"], each["shape"]) for each in told["metadata"][side]
        ] == expected.tensors(side)
    flat = {name: [x for row in rows for x in row] for name, rows in expected.outputs.items()}
    for form in ("typed", "raw"):
        assert told[form]["outputs"] == flat
        assert (told[form]["id"], told[form]["version"]) == ("mine", expected.version)
    if is_router:
        sent = told["typed"]["parameters"]
        assert sent["setpoint_route"] == parcels.ROUTE
        await world.wait_for_records(sent["setpoint_prediction_id"].split(","))
    else:
        assert "READY" in told["repository"]


MODEL = {
    "name": "sums",
    "implementation": "mlserver_model.Sums",
    "inputs": [
        {"name": "X", "datatype": "FP64", "shape": [-1, 2]},
        {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
    ],
    "outputs": [
        {"name": "sum", "datatype": "FP64", "shape": [-1, 1]},
        {"name": "length", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "upper", "datatype": "BYTES", "shape": [-1, 1]},
    ],
    # In field 6 of the metadata, which other stubs read as another type.
    "parameters": {"version": "7", "extra": {"limit": -1}},
}


@asynccontextmanager
async def mlserver(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """Run MLServer with a model of sums; yield a channel to it."""
    python = environment("mlserver")
    ports = [free_port() for _ in range(3)]
    settings: dict[str, Any] = dict(
        zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True)
    )
    settings |= {"host": "127.0.0.1", "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(MODEL))
    shutil.copyfile(SOURCES / "mlserver_model.py", folder / "mlserver_model.py")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(python.parent / "mlserver"), "start", str(folder)],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=kept | {"PYTHONPATH": str(folder)},
        )
    try:
        async with channel.connect(f"127.0.0.1:{ports[1]}", client="test") as opened:
            async with asyncio.timeout(RUN_SECONDS):
                while not await _is_ready(opened):
                    assert process.poll() is None, (folder / "log").read_text()[-3000:]
                    await asyncio.sleep(0.2)
            yield opened
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


async def _is_ready(opened: grpc.aio.Channel) -> bool:
    try:
        return await OipClient(opened).is_ready("sums")
    except errors.SetpointError:
        return False


async def test_our_client_asks_mlserver(tmp_path: Path) -> None:
    """Proves that columns go to MLServer and come back, and that its metadata is understood."""
    rows = Columns.from_dict(
        {
            "a": (DataType.FLOAT64, [1.5, -2.0, 0.1]),
            "b": (DataType.INT64, [1, 2, 3]),
            "text": (DataType.STRING, ["box", "Zoë", ""]),
        }
    )
    inputs = [Held("X", DataType.FLOAT64, ("a", "b")), Held("text", DataType.STRING, ("text",))]
    outputs = [
        Held("upper", DataType.STRING, ("upper",)),
        Held("sum", DataType.FLOAT64, ("total",)),
        Held("length", DataType.INT32, ("length",)),
    ]
    async with mlserver(tmp_path) as opened:
        client = OipClient(opened)
        described = await client.metadata("sums")
        found = await client.infer_columns(described, rows, inputs, outputs)
        results = {each.finding: each for each in await suite.run(Subject(opened, "sums"))}
    assert {name: found[name].to_list() for name in found.names} == {
        "upper": ["BOX", "ZOË", ""],
        "total": [2.5, 0.0, 3.1],
        "length": [3, 3, 0],
    }
    # What the suite finds in a server that is not ours: mostly good, and a fault known there.
    good = [each for each in results.values() if each.verdict is suite.Verdict.OK]
    assert len(good) > 10
    wrong = results["each output comes when it alone is wanted"]
    assert wrong.verdict is suite.Verdict.WRONG
