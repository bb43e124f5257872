"""Servers that people run models with today, each in an environment of its own.

They get the same estimator, one thread for its trees, and a batching of their own; what is chosen
for each is the best of what was tried on two cores.
"""

import contextlib
import importlib.metadata
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.load.support import children, environments, generator, loads, question

from setpoint_devstack import ports

_HERE = Path(__file__).parent
# The estimator's file is read by what wrote it.
_ESTIMATOR = tuple(
    f"{name}=={importlib.metadata.version(name)}" for name in ("scikit-learn", "joblib", "numpy")
)

Write = Callable[[question.Question, Path], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server, how it is set up, and what to ask it."""

    name: str
    requirements: Sequence[str]
    settings: str
    """In words, for the file of the benchmark."""
    protocol: generator.Protocol
    path: str
    write: Write
    """Writes the messages."""
    command: Callable[[Path, Path, int], Sequence[str]]
    """Returns what follows `python`, given the model's file, a folder and the port."""
    environment: Mapping[str, str] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def running(
    peer: Peer, trained: question.Question, model: Path, folder: Path
) -> AsyncIterator[loads.Target]:
    """Sets a peer up, runs it until the end of the block, and yields what to ask.

    Raises:
        SetUpError: Its packages cannot be installed.
        RuntimeError: It does not start.
    """
    python = await environments.python_with(peer.name.lower().replace(" ", "-"), peer.requirements)
    own = folder / peer.name
    own.mkdir()
    messages = own / "messages"
    peer.write(trained, messages)
    port = ports.free_port()
    async with children.running(
        peer.name,
        peer.command(model, own, port),
        port,
        own,
        {"OMP_NUM_THREADS": "1", question.MODEL_VARIABLE: str(model), **peer.environment},
        python=python,
    ):
        yield loads.Target(peer.name, peer.protocol, port, peer.path, messages)


def _app(name: str) -> str:
    return str(_HERE / f"{name}.py")


def _mlserver(model: Path, folder: Path, port: int) -> Sequence[str]:
    settings = {
        "debug": False,
        "host": ports.LOOPBACK,
        "grpc_port": port,
        "http_port": ports.free_port(),
        "metrics_port": ports.free_port(),
        "parallel_workers": 0,
    }
    of_model = {
        "name": question.NAME,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "max_batch_size": 64,
        "max_batch_time": 0.001,
        "parameters": {"uri": str(model), "version": "1"},
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(of_model), encoding="utf-8")
    return ["-c", "from mlserver import cli; cli.main()", "start", str(folder)]


def _bentoml(model: Path, folder: Path, port: int) -> Sequence[str]:
    del model
    # It wants a module of its working folder.
    shutil.copy(_app("bentoml_service"), folder / "service.py")
    where = ["--host", ports.LOOPBACK, "--port", str(port), "--working-dir", str(folder)]
    return ["-m", "bentoml", "serve", "service:Risk", *where]


MLSERVER = Peer(
    "MLServer",
    ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", *_ESTIMATOR),
    "gRPC, in one process, adaptive batching: max_batch_size 64, max_batch_time 1 ms",
    "grpc",
    "/inference.GRPCInferenceService/ModelInfer",
    question.write_open_inference,
    _mlserver,
)
BENTOML = Peer(
    "BentoML",
    ("bentoml==1.4.39", *_ESTIMATOR),
    "JSON over HTTP, one worker, batchable: max_batch_size 64",
    "json",
    "/predict",
    question.write_json_rows,
    _bentoml,
    {"BENTOML_DO_NOT_TRACK": "True"},
)
LITSERVE = Peer(
    "LitServe",
    ("litserve==0.2.19", *_ESTIMATOR),
    "JSON over HTTP, one worker, max_batch_size 64, batch_timeout 1 ms",
    "json",
    "/predict",
    question.write_json,
    lambda model, _, port: [_app("litserve_app"), str(model), str(port)],
)
RAY = Peer(
    "Ray Serve",
    ("ray[serve]==2.60.0", *_ESTIMATOR),
    "JSON over HTTP, one replica, serve.batch: max_batch_size 64, batch_wait_timeout 1 ms",
    "json",
    "/predict",
    question.write_json,
    lambda model, _, port: [_app("ray_app"), str(model), str(port)],
    {"RAY_USAGE_STATS_ENABLED": "0"},
)
PEERS = (MLSERVER, BENTOML, LITSERVE, RAY)
