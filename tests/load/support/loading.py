"""How long callers of one version wait while other versions are loaded beside it.

``measure`` starts inference with a registry and a caller, each in a process of its own. The caller
asks at a constant rate and counts from the moment a question was due, so that a stall is felt by
everybody who would have asked meanwhile.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import onnx
from tests.load.support import children, figures

from setpoint_columns.dtypes import DataType
from setpoint_devstack import ports
from setpoint_inference import testing
from setpoint_rpc import channel
from setpoint_rpc import server as servers

_FEATURES = 20
_NAMES = tuple(f"f{index}" for index in range(_FEATURES))
_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """What the caller of one version waited, in milliseconds."""

    steady_p50: float
    steady_p99: float
    loading_p50: float
    loading_p99: float
    loads: int
    load_seconds: float
    """Of one load, on average."""
    artifact_bytes: int

    @property
    def ratio(self) -> float:
        """The 99th percentile while other versions load over the steady one."""
        return self.loading_p99 / self.steady_p99


async def measure(
    artifact: bytes,
    folder: Path,
    *,
    rate: float = 200.0,
    seconds: float = 4.0,
    settle_seconds: float = 1.0,
    tensor: str = "X",
    output: str = "probabilities",
    width: int = 2,
) -> Found:
    """Return what one caller waits while nothing is loaded, and while versions load in a row.

    Args:
        artifact: A model of 20 numbers.
        folder: For logs and the cache.
        rate: Questions a second.
        seconds: How long each of the two states lasts.
        settle_seconds: How long the caller asks before anything counts.
        tensor: The model's input.
        output: The model's output of floats.
        width: Its columns.
    """
    registry = testing.FakeRegistry()
    outputs = [(output, DataType.FLOAT32, [f"p{index}" for index in range(width)])]
    inputs = [(tensor, DataType.FLOAT32, _NAMES)]
    registry.add("steady", 1, artifact, inputs, outputs)
    async with _inference(registry, folder) as port:
        target = f"{ports.LOOPBACK}:{port}"
        async with channel.connect(target, client="bench") as opened:
            served = testing.Inference(testing.stub_of(opened), registry, opened)
            await served.load("steady", 1)
            whole = settle_seconds + 2 * seconds
            asking = await _start_asking(target, rate, whole)
            await asyncio.sleep(settle_seconds + seconds)
            begun, number = time.time(), 0
            while time.time() < begun + seconds:
                number += 1
                registry.add("other", number, _distinct(artifact, number), inputs, outputs)
                await served.load("other", number)
                await served.unload("other", number)
            ended = time.time()
            answers = await _answers(asking)
    first = answers[0][0] + settle_seconds
    steady = [waited for due, waited in answers if first <= due < begun]
    loading = [waited for due, waited in answers if begun <= due < ended]
    return Found(
        figures.percentile(steady, 0.5),
        figures.percentile(steady, 0.99),
        figures.percentile(loading, 0.5),
        figures.percentile(loading, 0.99),
        number,
        (ended - begun) / number,
        len(artifact),
    )


def _distinct(artifact: bytes, number: int) -> bytes:
    """Return the same model under another digest."""
    model = onnx.ModelProto.FromString(artifact)
    model.doc_string = f"version {number}"
    return bytes(model.SerializeToString())


@contextlib.asynccontextmanager
async def _inference(registry: testing.FakeRegistry, folder: Path) -> AsyncIterator[int]:
    server = servers.Server("registry")
    server.add(testing.add_to_server, registry, testing.REGISTRY)
    await server.start()
    await server.set_ready(True)
    port, metrics_port = ports.free_port(), ports.free_port()
    environment = {
        "SETPOINT_INFERENCE_PORT": str(port),
        "SETPOINT_INFERENCE_METRICS_PORT": str(metrics_port),
        "SETPOINT_INFERENCE_REGISTRY_ADDRESS": server.address,
        "SETPOINT_INFERENCE_CACHE_DIRECTORY": str(folder / "cache"),
    }
    try:
        async with children.running(
            "inference", ["-m", "setpoint_inference"], port, folder, environment
        ):
            yield port
    finally:
        await server.stop(0)


async def _start_asking(target: str, rate: float, seconds: float) -> asyncio.subprocess.Process:
    """Return a process of its own that has begun to ask."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        *(target, str(rate), str(seconds)),
        stdout=asyncio.subprocess.PIPE,
        cwd=children.ROOT,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def _answers(process: asyncio.subprocess.Process) -> list[tuple[float, float]]:
    """Return when each question of an asking process was due, and what it waited."""
    printed, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError("the caller failed")
    return [(due, waited) for due, waited in json.loads(printed)]


async def call(target: str, rate: float, seconds: float) -> list[tuple[float, float]]:
    """Ask at a constant rate; return when each question was due, and what it waited in ms."""
    row = testing.floats({name: [0.25] for name in _NAMES})
    request = testing.predict_request("steady", 1, row)
    answers: list[tuple[float, float]] = []
    async with channel.connect(target, client="bench") as opened:
        stub = testing.stub_of(opened)

        async def ask(due: float) -> None:
            await stub.Predict(request, timeout=_DEADLINE_SECONDS)
            answers.append((due, (time.time() - due) * 1000))

        await stub.Predict(request, timeout=_DEADLINE_SECONDS)
        sys.stdout.write("asking\n")
        sys.stdout.flush()
        begun = time.time()
        async with asyncio.TaskGroup() as group:
            for index in range(int(rate * seconds)):
                due = begun + index / rate
                await asyncio.sleep(due - time.time())
                group.create_task(ask(due))
    return sorted(answers)


def main(arguments: Sequence[str]) -> None:
    """Ask as the command line says and print what happened as JSON."""
    target, rate, seconds = arguments
    answers = asyncio.run(call(target, float(rate), float(seconds)))
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    grpc.aio.init_grpc_aio()
    main(sys.argv[1:])
