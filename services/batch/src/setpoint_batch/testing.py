"""A small world for tests of the batch service: jobs, tasks, and peers that answer what they are told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from setpoint.common.v1 import column_pb2
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import testing as artifacts
from setpoint_batch import ports
from setpoint_batch.domain.job import Job, Spec, Version
from setpoint_columns import DataType
from setpoint_runtime import ids

NOW = 1_700_000_000_000_000
VERSION = Version("late", 3, "d" * 64, ("", ""))
ONNX = artifacts.linear()
"""`score = a + 2 b + 0.5`."""


def spec(**changes: Any) -> Spec:
    """Return what can be asked for, with changes."""
    given = Spec(
        name="nightly",
        event_time=NOW,
        model="late",
        input_url="file:///data/in.parquet",
        output_url="file:///data/out",
    )
    return replace(given, **changes)


def job(**changes: Any) -> Job:
    """Return a job that waits, with changes of its own or of its spec."""
    of_spec = {name: changes.pop(name) for name in list(changes) if name in Spec.__slots__}
    given = Job(ids.uuid7(), spec(**of_spec), VERSION, NOW, NOW)
    return replace(given, **changes)


def model(
    inputs: Sequence[tuple[str, DataType, Sequence[str]]] = (("X", DataType.FLOAT32, ("a", "b")),),
    outputs: Sequence[tuple[str, DataType, Sequence[str]]] = (
        ("score", DataType.FLOAT32, ("score",)),
    ),
    data: bytes = ONNX,
) -> dict[str, Any]:
    """Return what a plan says of a model, that of `ONNX` by default."""

    def tensors(listed: Any) -> list[model_pb2.TensorSpec]:
        return [
            model_pb2.TensorSpec(
                name=name,
                dtype=column_pb2.DataType.ValueType(int(dtype)),
                columns=columns,
            )
            for name, dtype, columns in listed
        ]

    manifest = model_pb2.Manifest(
        artifact_digest=hashlib.sha256(data).hexdigest(),
        artifact_size=len(data),
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
        inputs=tensors(inputs),
        outputs=tensors(outputs),
    )
    return {
        "model": VERSION.model,
        "version": VERSION.version,
        "manifest_digest": VERSION.manifest_digest,
        "artifact_digest": manifest.artifact_digest,
        "manifest": manifest.SerializeToString().hex(),
    }


def task(folder: Path, source: Path | str, **changes: Any) -> dict[str, Any]:
    """Return a task about a file, with its output and artifact in a folder."""
    keep(folder, ONNX)
    given = {
        "job_id": "0190a5d0-0000-7000-8000-000000000001",
        "name": "nightly",
        "attempt": 1,
        "asked_time": NOW,
        "event_time": NOW,
        "create_time": NOW,
        "input_url": f"file://{source}",
        "rows": "",
        "input_format": 0,
        "output_url": f"file://{folder}/out",
        "output_format": 1,
        "event_time_column": "",
        "kept_columns": [],
        "with_inputs": False,
        "partition_rows": 100,
        "chunk_rows": 40,
        "model": model(),
        "feature_set": None,
        "rules": None,
        "form": None,
        "around": {
            "work_directory": str(folder / "work"),
            "registry_address": "127.0.0.1:1",
            "feature_address": "127.0.0.1:1",
        },
    }
    return {**given, **changes}


def keep(folder: Path, data: bytes) -> None:
    """Put an artifact where the work directory of tasks has it."""
    path = folder / "work" / "artifacts" / hashlib.sha256(data).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


class FakeModels:
    """Implements `ports.Models`: one version of one model."""

    def __init__(self, data: bytes = ONNX) -> None:
        """Answer with the model of these bytes."""
        self._model = model(data=data)

    async def choose(self, model: str, version: int, alias: str) -> Version:
        """Return the version."""
        return VERSION

    async def manifest(self, version: Version) -> Mapping[str, Any]:
        """Return what running it needs."""
        return self._model


class FakeFeatures:
    """Implements `ports.Features`: there is nothing."""

    async def definition(self, feature_set: tuple[str, str]) -> ports.Json:
        """Return nothing."""
        return {}


class FakeRules:
    """Implements `ports.Rules`: there is nothing."""

    async def of_feature_set(self, name: str) -> ports.Json:
        """Return nothing."""
        return {"revision": 0, "names": [], "suites": []}
