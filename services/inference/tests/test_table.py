"""The table of versions by itself: what becomes of those that wait for it, and how far it grows."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from setpoint_artifacts import onnx_model
from setpoint_artifacts import testing as artifacts
from setpoint_artifacts.signature import Signature, TensorSpec
from setpoint_columns.dtypes import DataType
from setpoint_inference.domain import version
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_inference.service import models
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, tasks
from setpoint_scoring.onnx_engine import OnnxEngine

T = TypeVar("T")
KEY = VersionKey("linear", 1)
DATA = artifacts.linear()


@dataclass
class Parts:
    """Implements `ports.Versions`, `ports.Inspector` and, as far as loads go, `ports.Workers`."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_away: bool = False

    async def manifest(self, key: VersionKey) -> Manifest:
        if self.is_away:
            raise version.not_ready(key, "the registry does not answer")
        await self.gate.wait()
        inputs = (TensorSpec("X", DataType.FLOAT32, ("a", "b")),)
        outputs = (TensorSpec("score", DataType.FLOAT32, ("score",)),)
        return Manifest(key, "0" * 64, len(DATA), inputs, outputs)

    async def artifact(self, manifest: Manifest) -> bytes:
        return DATA

    async def inspect(self, data: bytes, digest: str) -> Signature:
        return onnx_model.inspect(data)

    async def load(self, job: Callable[[], T]) -> T:
        return job()


def table(parts: Parts, owner: tasks.TaskOwner) -> models.Models:
    return models.Models(
        parts,
        parts,
        OnnxEngine(),
        parts,  # type: ignore[arg-type]  # nothing is run here
        clocks.SystemClock(),
        owner,
        models.Limits(1 << 20, 1 << 30, 60),
        lambda: 0,
        {},
    )


async def test_load_of_a_version_that_is_dropped_at_once() -> None:
    """Whoever waits for a load while another drops the version is told to ask again."""
    parts = Parts()
    async with tasks.TaskOwner() as owner:
        made = table(parts, owner)
        first = asyncio.create_task(made.load(KEY, None, is_explicit=False))
        await asyncio.sleep(0)
        dropping = asyncio.create_task(made.unload(KEY))
        await asyncio.sleep(0)
        last = asyncio.create_task(made.load(KEY, None, is_explicit=False))
        await asyncio.sleep(0)
        parts.gate.set()
        assert (await first).manifest.key == KEY
        await dropping
        with pytest.raises(errors.UnavailableError) as caught:
            await last
    assert caught.value.reason is errors.Reason.MODEL_NOT_READY


async def test_failed_loads_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the registry is away, made-up names do not fill the memory."""
    monkeypatch.setattr(models, "MAX_FAILED", 3)
    parts = Parts(is_away=True)
    async with tasks.TaskOwner() as owner:
        made = table(parts, owner)
        for number in range(1, 10):
            with pytest.raises(errors.UnavailableError):
                await made.load(VersionKey("linear", number), None, is_explicit=False)
        assert [key.version for key, _ in made.all()] == [7, 8, 9]
