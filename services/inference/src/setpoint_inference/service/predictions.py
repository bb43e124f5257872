"""Predictions: find the version, place the work, run it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

from setpoint_inference import ports
from setpoint_inference.domain import batching
from setpoint_inference.domain.batching import Batching
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_inference.service import batcher
from setpoint_inference.service.models import Models, ReadyModel
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors
from setpoint_scoring import packing
from setpoint_scoring.packing import Feeds, Output
from setpoint_scoring.runner import Runner, Stop

ANSWER_SECONDS = 0.02
"""Kept of a caller's time to answer in, when it waits for a load."""

REMOTE_SECONDS = 30.0
"""Longest time for a run outside this process when the caller has no deadline."""

Pack = Callable[[Manifest], Feeds]


class Prediction(NamedTuple):
    """What a version said."""

    outputs: list[Output]
    queue_us: int
    run_us: int
    cost_us: float
    """What the version's cost learns from."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where calls run, and which of them run together."""

    inline_us: float
    """A call that is likely to take at most this long runs on the event loop."""
    batching: Batching
    """How calls wait for each other where a manifest says nothing."""
    slots: int
    """Batches of one version that run at once."""
    is_batched: Callable[[], bool]
    """Tells whether the caller being served brings batches already and so waits for nobody."""


class InferenceService:
    """Answers what a version says for rows."""

    def __init__(
        self,
        models: Models,
        workers: ports.Workers,
        clock: clocks.Clock,
        placement: Placement,
        start: batcher.Start,
    ) -> None:
        """Connect the parts; `start` starts the tasks that run batches."""
        self.models = models
        self._workers = workers
        self._now = clock.monotonic
        self._placement = placement
        self._inline_us = placement.inline_us
        self._start = start

    async def predict(
        self, key: VersionKey, rows: int, pack: Pack, remaining_seconds: float | None
    ) -> Prediction:
        """Run a version on rows.

        A call that costs less than handing it to a thread runs right here, so the event loop
        waits about `inline_us` at most; every other call runs in the pool, its packing included.
        A model with loops always does, since its rows may hold how long it runs.

        Args:
            key: The version.
            rows: How many rows there are.
            pack: Makes the tensors, given the manifest.
            remaining_seconds: Time the caller has left.

        Raises:
            InvalidArgumentError: The rows do not fit the manifest.
            SetpointError: The version cannot be loaded, or not in time, or cannot be run.
        """
        model = self.models.ready(key)
        if model is None:
            started = self._now()
            model = await self._loaded(key, remaining_seconds)
            if remaining_seconds is not None:
                remaining_seconds -= self._now() - started
        if not model.is_settled:
            self._settle(model)
        queue = model.batcher
        if queue is not None and queue.takes(rows) and not self._placement.is_batched():
            return await self._join(model, queue, rows, pack, remaining_seconds)
        now = model.last_used = self._now()
        estimate_us = model.cost.estimate_us(rows)
        if estimate_us <= self._inline_us and model.may_inline:
            prediction = self._run(model, rows, pack, now, None, self._now)
            model.counts.on_loop += 1
        else:
            prediction = await self._run_in_pool(model, rows, pack, estimate_us, remaining_seconds)
            model.counts.in_pool += 1
        _learn(model, rows, prediction)
        return prediction

    def _settle(self, model: ReadyModel) -> None:
        """Decide once whether calls of a version wait for each other."""
        model.is_settled = True
        rules = batching.chosen(
            model.manifest.batching,
            self._placement.batching,
            model.cost,
            has_loops=model.has_loops,
        )
        if rules is None:
            return

        async def run(feeds: Feeds, rows: int, remaining_seconds: float | None) -> batcher.Ran:
            prediction = await self._run_batch(model, feeds, rows, remaining_seconds)
            return batcher.Ran(prediction.outputs, prediction.run_us)

        name, slots = str(model.manifest.key), self._placement.slots
        model.batcher = batcher.Batcher(name, rules, slots, run, self._start, self._now)

    async def _join(
        self,
        model: ReadyModel,
        queue: batcher.Batcher,
        rows: int,
        pack: Pack,
        remaining_seconds: float | None,
    ) -> Prediction:
        # What is wrong with a call is found before it meets others.
        feeds = pack(model.manifest)
        model.last_used = self._now()
        model.begin()
        try:
            joined = await queue.join(feeds, rows, remaining_seconds)
        finally:
            model.end()
        model.counts.in_batch += 1
        return Prediction(joined.outputs, joined.queue_us, joined.run_us, 0.0)

    async def _run_batch(
        self, model: ReadyModel, feeds: Feeds, rows: int, remaining_seconds: float | None
    ) -> Prediction:
        def pack(_: Manifest) -> Feeds:
            return feeds

        estimate_us = model.cost.estimate_us(rows)
        if estimate_us <= self._inline_us and model.may_inline:
            prediction = self._run(model, rows, pack, self._now(), None, self._now)
        else:
            prediction = await self._run_in_pool(model, rows, pack, estimate_us, remaining_seconds)
        _learn(model, rows, prediction)
        return prediction

    async def find(self, key: VersionKey, remaining_seconds: float | None) -> ReadyModel:
        """Return a version, loaded if need be."""
        return self.models.ready(key) or await self._loaded(key, remaining_seconds)

    async def load(
        self, key: VersionKey, remaining_seconds: float | None, lease_seconds: float = 0.0
    ) -> ReadyModel:
        """Load a version now, even if that failed a moment ago, and keep it for a lease, or for good."""
        timeout = None if remaining_seconds is None else remaining_seconds - ANSWER_SECONDS
        return await self.models.load(key, timeout, is_explicit=True, lease_seconds=lease_seconds)

    async def _loaded(self, key: VersionKey, remaining_seconds: float | None) -> ReadyModel:
        timeout = None if remaining_seconds is None else remaining_seconds - ANSWER_SECONDS
        return await self.models.load(key, timeout, is_explicit=False)

    async def _run_in_pool(
        self,
        model: ReadyModel,
        rows: int,
        pack: Pack,
        estimate_us: float,
        remaining_seconds: float | None,
    ) -> Prediction:
        if remaining_seconds is not None and estimate_us > remaining_seconds * 1e6:
            raise errors.DeadlineExceededError(
                errors.Reason.DEADLINE_EXCEEDED,
                f"{rows} rows take about {estimate_us / 1000:.1f} ms, and"
                f" {remaining_seconds * 1000:.1f} ms are left",
            )
        if model.is_remote:
            return await self._run_outside(model, rows, pack, remaining_seconds)
        stop = cast("Runner", model.runner).stop()
        queued = self._now()
        model.begin()
        # In the pool a run also waits for the interpreter and for other threads; that is no reason
        # to think it dear and keep it there, so only the thread's own time counts.
        return await self._workers.run(
            lambda: self._run(model, rows, pack, queued, stop, time.thread_time),
            estimate_us,
            remaining_seconds,
            stop,
            model.end,
        )

    async def _run_outside(
        self, model: ReadyModel, rows: int, pack: Pack, remaining_seconds: float | None
    ) -> Prediction:
        feeds, manifest = pack(model.manifest), model.manifest
        if not rows:
            return Prediction(packing.none(manifest.outputs), 0, 0, 0.0)
        started = self._now()
        timeout = REMOTE_SECONDS if remaining_seconds is None else remaining_seconds
        model.begin()
        try:
            arrays = await cast("ports.Remote", model.runner).run(feeds, rows, timeout)
        finally:
            model.end()
        outputs = packing.unpack(arrays, manifest.outputs, rows)
        took_us = (self._now() - started) * 1e6
        return Prediction(outputs, 0, int(took_us), took_us)

    def _run(
        self,
        model: ReadyModel,
        rows: int,
        pack: Pack,
        queued: float,
        stop: Stop | None,
        costed: Callable[[], float],
    ) -> Prediction:
        started, begun = self._now(), costed()
        manifest = model.manifest
        feeds = pack(manifest)
        if rows:
            arrays = model.runner.run(feeds, stop)  # type: ignore[call-arg,arg-type]  # it runs here
            outputs = packing.unpack(arrays, manifest.outputs, rows)  # type: ignore[arg-type]
        else:
            # Not every operator knows what to do with no rows.
            outputs = packing.none(manifest.outputs)
        cost = costed() - begun
        ended = self._now()
        return Prediction(
            outputs, int((started - queued) * 1e6), int((ended - started) * 1e6), cost * 1e6
        )


def _learn(model: ReadyModel, rows: int, prediction: Prediction) -> None:
    model.cost.observe(rows, prediction.cost_us)
    model.counts.rows += rows
    model.counts.run_us += prediction.run_us
