"""One way through a job: look the input through, work on its partitions, commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from setpoint_batch import ports
from setpoint_batch.domain.job import Job, Part, Progress, State
from setpoint_runtime import errors
from setpoint_runtime.clock import Clock

_LOGGER = logging.getLogger(__name__)

PATIENCE = 60
"""Tries of what fails because another service is away: about five minutes."""

LOSSES = 3
"""Processes that may die over the same task."""

_NOTHING: ports.Json = {"model": None, "feature_set": None, "rules": None}
"""What a task goes by that needs no plan."""

_PASSING = (errors.UnavailableError, errors.DeadlineExceededError, errors.ResourceExhaustedError)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done at once."""

    partition_rows: int
    chunk_rows: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What doing a job takes."""

    store: ports.Store
    models: ports.Models
    features: ports.Features
    rules: ports.Rules
    executor: ports.Executor
    sizes: Sizes
    clock: Clock


class Attempt:
    """One worker's way through one job."""

    def __init__(self, needs: Needs, job: Job) -> None:
        """Take a claimed job."""
        self._needs = needs
        self._job = job
        self._rows = b""
        self._saving = asyncio.Lock()

    async def run(self) -> None:
        """Do the job, to an end of whatever kind."""
        try:
            if self._job.state is State.CANCELLING:
                if await self._is_committed(_NOTHING):
                    # The cancellation came too late; its output stands.
                    return
                await self._discard()
                await self._end(State.CANCELLED)
                return
            await self._run()
        except errors.AbortedError:
            _LOGGER.info("batch prediction %s was changed by somebody else", self._job.job_id)
        except errors.SetpointError as error:
            await self._fail(error.message, error.reason.value)
        except Exception:
            _LOGGER.exception("batch prediction %s died", self._job.job_id)
            await self._fail("an unexpected error, see the log", errors.Reason.INTERNAL.value)

    async def _run(self) -> None:
        store = self._needs.store
        self._rows, plan, parts = await self._again(lambda: store.work_of(self._job.job_id))
        if plan is None:
            plan, parts = await self._plan(), []
        elif await self._is_committed(plan):
            return
        else:
            parts = await self._verified(plan, parts)
        done = {part.number for part in parts}
        waiting = [each for each in plan["partitions"] if each["number"] not in done]
        parts = [*parts, *await self._score(plan, waiting)]
        answer = await self._task(
            {**self._base(plan), "kind": "commit", **self._story(plan, parts)}
        )
        await self._succeed(answer["manifest_url"])

    # The steps.

    async def _plan(self) -> dict[str, Any]:
        """Look the input through and settle what every partition will go by."""
        job, needs = self._job, self._needs
        started = replace(job, state=State.RUNNING, start_time=needs.clock.now_us())
        await self._save(started)
        model = dict(await self._again(lambda: needs.models.manifest(job.version)))
        feature_set, rules = None, None
        if job.version.feature_set[0]:
            name = job.version.feature_set
            feature_set = await self._again(lambda: needs.features.definition(name))
            rules = await self._again(lambda: needs.rules.of_feature_set(name[0]))
        common = {"model": model, "feature_set": feature_set, "rules": rules}
        looked = await self._task({**self._base(common), "kind": "plan"})
        plan = {**common, **looked}
        progress = Progress(looked["rows"], partitions=len(looked["partitions"]))
        async with self._saving:
            self._job = await self._again(
                lambda: needs.store.save_plan(replace(self._job, progress=progress), plan)
            )
        return plan

    async def _is_committed(self, plan: ports.Json) -> bool:
        """Say whether the output is there already: the last worker died right after its commit."""
        answer = await self._task({**self._base(plan), "kind": "committed"})
        if answer["manifest_url"]:
            await self._succeed(answer["manifest_url"])
        return bool(answer["manifest_url"])

    async def _verified(self, plan: ports.Json, parts: list[Part]) -> list[Part]:
        """Return the parts whose files are as they were written."""
        if not parts:
            return []
        listed = [{"name": each.name, "sha256": each.sha256} for each in parts]
        answer = await self._task({**self._base(plan), "kind": "verify", "parts": listed})
        good = set(answer["good"])
        kept = [each for each in parts if each.name in good]
        lost = frozenset(each.number for each in parts if each.name not in good)
        progress = Progress(plan["rows"], partitions=len(plan["partitions"]))
        for each in kept:
            progress = progress.add(each)
        await self._save_parts(replace(self._job, progress=progress), None, lost)
        if lost:
            _LOGGER.warning("batch prediction %s: %d parts are lost", self._job.job_id, len(lost))
        return kept

    async def _score(self, plan: ports.Json, waiting: list[dict[str, Any]]) -> list[Part]:
        """Work on partitions, as many at once as the executor takes; store each as it is done."""
        turns = iter(waiting)
        base = self._base(plan)
        done: list[Part] = []

        async def work() -> None:
            for partition in turns:
                file = plan["files"][partition["file"]] if "file" in partition else None
                task = {**base, "kind": "score", "partition": partition, "file": file}
                part = Part(**await self._task(task))
                async with self._saving:
                    progress = self._job.progress.add(part)
                    await self._save_parts(
                        replace(self._job, progress=progress), part, frozenset(), is_locked=True
                    )
                done.append(part)

        at_once = min(len(waiting), self._needs.executor.tasks_at_once)
        await _all(work() for _ in range(at_once))
        return done

    def _base(self, plan: ports.Json) -> dict[str, Any]:
        """Return what every task of the job says."""
        job, spec = self._job, self._job.spec
        return {
            "job_id": job.job_id,
            "name": spec.name,
            "attempt": job.attempt,
            "asked_time": spec.event_time,
            "event_time": job.event_time,
            "create_time": job.create_time,
            "input_url": spec.input_url,
            "rows": self._rows.hex() if self._rows else "",
            "input_format": int(spec.input_format),
            "output_url": spec.output_url,
            "output_format": int(spec.output_format),
            "event_time_column": spec.event_time_column,
            "kept_columns": list(spec.kept_columns),
            "with_inputs": spec.with_inputs,
            "partition_rows": self._needs.sizes.partition_rows,
            "chunk_rows": self._needs.sizes.chunk_rows,
            "model": plan["model"],
            "feature_set": plan["feature_set"],
            "rules": plan["rules"],
            "form": plan.get("form"),
        }

    def _story(self, plan: ports.Json, parts: Iterable[Part]) -> dict[str, Any]:
        """Return what the manifest says beside the base."""
        ordered = sorted(parts, key=lambda each: each.number)
        listed = [
            {name: getattr(each, name) for name in ("name", "rows", "failed", "size", "sha256")}
            for each in ordered
        ]
        progress = self._job.progress
        return {
            "files": plan["files"],
            "parts": listed,
            "counts": {
                "rows": progress.rows_done,
                "failed": progress.rows_failed,
                "degraded": progress.rows_degraded,
            },
        }

    # What every step does.

    async def _task(self, task: ports.Json) -> ports.Json:
        """Do a task, again while another service is away or when its process dies."""
        losses = 0
        while True:
            try:
                return await self._again(lambda: self._needs.executor.run(task))
            except ports.WorkerLostError as lost:
                losses += 1
                said = lost.last_words or "no word"
                _LOGGER.warning("batch prediction %s: %s: %s", self._job.job_id, lost, said)
                if losses >= LOSSES:
                    raise errors.InternalError(
                        errors.Reason.INTERNAL,
                        f"{losses} processes died over the same work, the last time because {lost};"
                        " what they said is in the log",
                    ) from lost

    async def _again(self, work: Callable[[], Awaitable[_T]]) -> _T:
        for attempt in range(PATIENCE - 1):
            try:
                return await work()
            except _PASSING as error:
                _LOGGER.warning("batch prediction %s waits: %s", self._job.job_id, error)
                await asyncio.sleep(min(5.0, 0.25 * 2**attempt))
        return await work()

    async def _save(self, job: Job) -> None:
        async with self._saving:
            self._job = await self._again(lambda: self._needs.store.save(job))

    async def _save_parts(
        self, job: Job, added: Part | None, removed: frozenset[int], *, is_locked: bool = False
    ) -> None:
        if not is_locked:
            async with self._saving:
                return await self._save_parts(job, added, removed, is_locked=True)
        store = self._needs.store
        self._job = await self._again(lambda: store.save_parts(job, added, removed))
        return None

    async def _succeed(self, manifest_url: str) -> None:
        now = self._needs.clock.now_us()
        await self._save(replace(self._job.end(State.SUCCEEDED, now), manifest_url=manifest_url))

    async def _fail(self, error: str, reason: str) -> None:
        """End the job; nothing is left of its output, unless even that fails, or it is there already."""
        try:
            if await self._is_committed(_NOTHING):
                # What failed came behind the commit.
                return
            await self._discard()
        except (errors.SetpointError, ports.WorkerLostError) as left:
            _LOGGER.warning("batch prediction %s leaves files: %s", self._job.job_id, left)
        # What somebody else says may hold anything; the database takes all but NUL.
        await self._end(State.FAILED, error.replace("\0", ""), reason)

    async def _discard(self) -> None:
        await self._task({**self._base(_NOTHING), "kind": "discard"})

    async def _end(self, state: State, error: str = "", reason: str = "") -> None:
        try:
            await self._save(self._job.end(state, self._needs.clock.now_us(), error, reason))
        except errors.AbortedError:
            _LOGGER.info("batch prediction %s was ended by somebody else", self._job.job_id)


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Wait for all; the first failure stops the others and is raised as it is."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
