"""Where calls run, with a model and threads that do as they are told."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from setpoint_artifacts.signature import Signature, Tensor, TensorSpec
from setpoint_columns.dtypes import DataType
from setpoint_inference.domain.batching import Batching
from setpoint_inference.domain.cost import Cost
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_inference.service import models, predictions
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, tasks
from setpoint_scoring.packing import AnyArray, Feeds

KEY = VersionKey("m", 1)
SPEC = TensorSpec("X", DataType.FLOAT32, ("a",))
MANIFEST = Manifest(KEY, "0" * 64, 10, (SPEC,), (SPEC,))
SIGNATURE = Signature((Tensor("X", "float", (None, 1)),), (Tensor("X", "float", (None, 1)),))


class Everything:
    """All of inference's ports at once; counts jobs of the pool."""

    def __init__(self) -> None:
        self.pooled: list[float] = []

    async def manifest(self, key: VersionKey) -> Manifest:
        return MANIFEST

    async def artifact(self, manifest: Manifest) -> bytes:
        return bytes(10)

    async def inspect(self, data: bytes, digest: str) -> Signature:
        return SIGNATURE

    def open(self, data: bytes, signature: Signature, outputs: Sequence[str]) -> "Everything":
        return self

    def stop(self) -> "Everything":
        return self

    def set(self) -> None:
        pass

    async def load(self, job: Callable[[], Any]) -> Any:
        return job()

    def run(self, *arguments: Any) -> Any:
        if callable(arguments[0]):
            return self._run_job(*arguments)
        return self._run_model(arguments[0])

    def _run_model(self, feeds: Feeds) -> Sequence[AnyArray]:
        return [feeds["X"]]

    async def _run_job(
        self, job: Callable[[], Any], estimate: float, remaining: Any, stop: Any, ended: Any
    ) -> Any:
        self.pooled.append(estimate)
        ended()
        return job()


@pytest.fixture
async def everything() -> Everything:
    return Everything()


async def service_of(
    everything: Everything,
    owner: tasks.TaskOwner,
    inline_us: float,
    rules: Batching = Batching(0),  # noqa: B008, RUF100 — frozen
    *,
    is_batched: bool = False,
) -> predictions.InferenceService:
    clock = clocks.SystemClock()
    limits = models.Limits(100, 100, 10.0)
    table = models.Models(
        everything, everything, everything, everything, clock, owner, limits, lambda: 0, {}
    )
    placement = predictions.Placement(inline_us, rules, 2, lambda: is_batched)
    return predictions.InferenceService(table, everything, clock, placement, owner.start)


def pack(rows: int) -> Callable[[Manifest], Feeds]:
    return lambda manifest: {"X": np.ones((rows, 1), np.float32)}


async def test_predict_cheap_on_loop(everything: Everything) -> None:
    """A call within the bound runs where it is."""
    async with tasks.TaskOwner() as owner:
        service = await service_of(everything, owner, inline_us=1e9)
        got = await service.predict(KEY, 3, pack(3), None)
    assert got.outputs[0].values.tolist() == [1.0, 1.0, 1.0]
    assert everything.pooled == []


async def test_predict_dear_in_pool(everything: Everything) -> None:
    """A call beyond the bound runs in the pool, and is announced with its estimate."""
    async with tasks.TaskOwner() as owner:
        service = await service_of(everything, owner, inline_us=0)
        await service.predict(KEY, 3, pack(3), None)
    assert len(everything.pooled) == 1
    assert everything.pooled[0] > 0


async def test_predict_moves_to_pool_when_it_proves_dear(everything: Everything) -> None:
    """A version whose calls take longer than measured leaves the loop."""
    async with tasks.TaskOwner() as owner:
        service = await service_of(everything, owner, inline_us=200)
        await service.predict(KEY, 1, pack(1), None)
        model = service.models.ready(KEY)
        assert model is not None
        for _ in range(100):
            model.cost.observe(1, 1000.0)
        await service.predict(KEY, 1, pack(1), None)
    assert len(everything.pooled) == 1


async def test_predict_no_time_left(everything: Everything) -> None:
    """A batch that takes longer than the time left is refused before it runs."""
    async with tasks.TaskOwner() as owner:
        service = await service_of(everything, owner, inline_us=0)
        model = await service.models.load(KEY, None, is_explicit=False)
        for _ in range(200):
            model.cost.observe(1, 1e6)
        with pytest.raises(errors.DeadlineExceededError):
            await service.predict(KEY, 1, pack(1), 0.5)
    assert everything.pooled == []


async def test_predict_no_rows_not_run(everything: Everything) -> None:
    """Without rows the model is not asked, but what came is still checked."""
    async with tasks.TaskOwner() as owner:
        service = await service_of(everything, owner, inline_us=1e9)
        await service.models.load(KEY, None, is_explicit=False)

        def refuse(manifest: Manifest) -> Feeds:
            raise errors.invalid("inputs", None, "are wrong")

        with pytest.raises(errors.InvalidArgumentError):
            await service.predict(KEY, 0, refuse, None)
        got = await service.predict(KEY, 0, pack(0), None)
    assert got.outputs[0].values.tolist() == []


async def test_unexpected_failure_is_a_state(
    everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect while loading becomes the version's state; the task owner stays well."""

    async def broken(manifest: Manifest) -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr(everything, "artifact", broken)
    async with tasks.TaskOwner() as owner:
        service = await service_of(everything, owner, inline_us=1e9)
        with pytest.raises(errors.FailedPreconditionError) as caught:
            await service.predict(KEY, 1, pack(1), None)
        await asyncio.sleep(0)
        assert not owner.failed.is_set()
    assert "a defect" not in caught.value.message


@pytest.mark.parametrize(
    ("is_batched", "rows", "joined"), [(False, 3, 1), (True, 3, 0), (False, 9, 0)]
)
async def test_predict_joins_direct_callers(
    everything: Everything, is_batched: bool, rows: int, joined: int
) -> None:
    """Calls wait for each other where it pays, but those of the router and large ones never do."""
    async with tasks.TaskOwner() as owner:
        service = await service_of(everything, owner, 0, Batching(8), is_batched=is_batched)
        model = await service.load(KEY, None)
        model.cost = Cost(1000.0, 1000.0)
        got = await service.predict(KEY, rows, pack(rows), None)
    assert got.outputs[0].values.tolist() == [1.0] * rows
    assert model.counts.calls() == (0, 1 - joined, joined)
    assert model.counts.rows == rows
