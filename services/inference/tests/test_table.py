"""The table of versions by itself: what becomes of those that wait for it, and how far it grows."""

import asyncio
from collections.abc import AsyncIterator, Callable
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


def table(parts: Parts, owner: tasks.TaskOwner, clock: clocks.Clock | None = None) -> models.Models:
    return models.Models(
        parts,
        parts,
        OnnxEngine(),
        parts,  # type: ignore[arg-type]  # nothing is run here
        clock or clocks.SystemClock(),
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


@dataclass
class Leased:
    """A table with one version, and time that a test moves."""

    table: models.Models
    clock: clocks.ManualClock

    def after(self, seconds: float) -> bool:
        """Let time pass and the table look around; say whether the version is still there."""
        self.clock.advance(round(seconds * 1e6))
        self.table.release()
        return self.table.ready(KEY) is not None


@pytest.fixture
async def leased() -> AsyncIterator[Leased]:
    """A version that is leased for 10 s."""
    parts, clock = Parts(), clocks.ManualClock(0)
    parts.gate.set()
    async with tasks.TaskOwner() as owner:
        made = table(parts, owner, clock)
        await made.load(KEY, None, is_explicit=True, lease_seconds=10)
        yield Leased(made, clock)


async def test_release_after_the_lease(leased: Leased) -> None:
    """A version whose lease is over, and that nobody calls, leaves the memory."""
    assert leased.after(9.9)
    assert not leased.after(0.2)
    assert leased.table.counts.released == 1


async def test_release_waits_for_renewals_and_calls(leased: Leased) -> None:
    """Each renewal, and each call, keeps a version for another lease."""
    assert leased.after(9)
    assert leased.table.renew([KEY, VersionKey("linear", 2)], 10) == [VersionKey("linear", 2)]
    assert leased.after(9)
    found = leased.table.ready(KEY)
    assert found is not None
    found.last_used = leased.clock.monotonic()
    assert leased.after(9)
    assert not leased.after(1.1)


async def test_release_waits_for_the_last_who_needs_it(leased: Leased) -> None:
    """Of two who lease a version neither can end the other's lease, and the longest counts."""
    leased.table.renew([KEY], 30)
    leased.table.renew([KEY], 1)
    assert leased.after(29)
    assert not leased.after(1.1)


async def test_release_leaves_what_was_loaded_for_good(leased: Leased) -> None:
    """A version that somebody loaded without a lease stays, and so does one that a call brought."""
    await leased.table.load(KEY, None, is_explicit=True)
    other = VersionKey("linear", 2)
    await leased.table.load(other, None, is_explicit=False)
    assert leased.after(1e6)
    assert leased.table.ready(other) is not None


async def test_load_again_after_release(leased: Leased) -> None:
    """A released version is loaded anew by the next call, without a lease."""
    assert not leased.after(11)
    found = await leased.table.load(KEY, None, is_explicit=False)
    assert not found.hold.is_by_name
