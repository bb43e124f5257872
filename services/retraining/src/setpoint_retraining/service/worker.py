"""Doing a run's steps, one after the other; each result is stored before the next begins."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from setpoint_columns import Columns
from setpoint_retraining import ports
from setpoint_retraining.domain import gate
from setpoint_retraining.domain.run import Run, RunState, Step
from setpoint_retraining.service import approval, snapshot
from setpoint_retraining.training import table as tables
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import Clock

_LOGGER = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""How long a run stays with a worker that gives no sign of life."""

HEARTBEATS = 6
"""Signs of life in the time of a lease."""

PATIENCE = 60
"""Tries of a step that fails because another service is away."""

_PASSING = (errors.UnavailableError, errors.DeadlineExceededError, errors.ResourceExhaustedError)
_T = TypeVar("_T")

Output = tuple[str, dict[str, Any]]
"""Summary, and what later steps need."""


@dataclass(frozen=True, slots=True)
class Peers:
    """The other services."""

    features: ports.Features
    registry: ports.Registry
    validation: ports.Validation
    inference: ports.Inference
    training: ports.Training


class Worker:
    """Takes runs that wait and does their steps."""

    def __init__(
        self,
        store: ports.Store,
        peers: Peers,
        folder: Path,
        code_version: str,
        clock: Clock,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Take what it works with; files of runs go below the folder."""
        self._store = store
        self._peers = peers
        self._folder = folder
        self._code_version = code_version
        self._clock = clock
        self._lease_seconds = lease_seconds
        # Unique per process: a restarted one must not look like the one that died.
        self._holder = f"{os.getpid()}-{ids.uuid7()}"
        self.woken = asyncio.Event()
        """Set when a run was added."""
        self._steps: Mapping[str, Callable[[Run], Awaitable[Output]]] = {
            "snapshot": self._snapshot,
            "validate": self._validate,
            "train": self._train,
            "evaluate": self._evaluate,
            "package": self._package,
            "register": self._register,
        }

    async def work(self, poll_seconds: float) -> None:
        """Take runs and do them, forever."""
        while True:
            # Before the look, so that a run that is added during it is not slept through.
            self.woken.clear()
            try:
                run = await self._store.claim(self._holder, self._lease_seconds)
            except errors.UnavailableError as error:
                _LOGGER.warning("no look for runs: %s", error)
                run = None
            if run is not None:
                await self._do(run)
                continue
            try:
                async with asyncio.timeout(poll_seconds):
                    await self.woken.wait()
            except TimeoutError:
                pass

    async def _do(self, run: Run) -> None:
        """Does a claimed run's steps for as long as the lease holds."""
        doing = asyncio.create_task(self._do_steps(run), name=f"run {run.run_id}")
        try:
            while not doing.done():
                await asyncio.wait({doing}, timeout=self._lease_seconds / HEARTBEATS)
                if not doing.done() and not await self._keep(run.run_id):
                    _LOGGER.warning("run %s is no longer this worker's", run.run_id)
                    break
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)

    async def _keep(self, run_id: str) -> bool:
        try:
            return await self._store.extend(run_id, self._holder, self._lease_seconds)
        except errors.UnavailableError:
            return True

    async def _do_steps(self, run: Run) -> None:
        try:
            while (name := run.next_step()) is not None:
                run = await self._save(run.begin(name, self._clock.now_us()))
                summary, output = await self._patiently(name, run)
                run = run.finish(name, self._clock.now_us(), summary, output)
                run = _with_results(run, name, output)
                if output.get("rejected"):
                    await self._end(run, RunState.REJECTED, summary, "")
                    return
                run = await self._save(run)
            await self._hand_over(run)
        except errors.AbortedError:
            _LOGGER.info("run %s was changed by somebody else; letting go", run.run_id)
        except errors.SetpointError as error:
            await self._end(run, RunState.FAILED, error.message, error.reason)
        except Exception:
            _LOGGER.exception("run %s died", run.run_id)
            await self._end(run, RunState.FAILED, "an unexpected error, see the log", "INTERNAL")

    async def _patiently(self, name: str, run: Run) -> Output:
        """Does a step, again while another service is away."""
        return await _again(f"run {run.run_id}: {name}", lambda: self._steps[name](run))

    async def _save(self, run: Run) -> Run:
        """Stores a changed run, again while the database is away: finished work is not thrown away."""
        return await _again(f"run {run.run_id}", lambda: self._store.save(run))

    async def _hand_over(self, run: Run) -> None:
        """Leaves a registered version to a person, or approves it as the policy says."""
        if not run.plan.automatic_approval:
            await self._save(replace(run, state=RunState.AWAITING_APPROVAL))
            return
        who = f"policy {run.plan.name}"
        await _again(
            f"run {run.run_id}: approval",
            lambda: approval.approve(
                self._peers.registry, run, run.manifest_digest, who, "automatic approval"
            ),
        )
        now = self._clock.now_us()
        steps = (*run.steps, Step("approve", now, now, f"approved by {who}"), Step("rollout", now))
        await self._save(replace(run, state=RunState.ROLLING_OUT, steps=steps))

    async def _end(self, run: Run, state: RunState, error: str, reason: str) -> None:
        try:
            # The words of a dead process may hold anything; the database takes all but NUL.
            words = error.replace("\0", "")
            await self._save(run.end(state, self._clock.now_us(), words, reason))
        except errors.AbortedError:
            _LOGGER.info("run %s was ended by somebody else", run.run_id)

    def _file(self, run: Run, name: str) -> Path:
        folder = self._folder / run.run_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    async def _snapshot(self, run: Run) -> Output:
        feature_set = await self._peers.features.feature_set(run.plan.feature_set)
        taken = await snapshot.take(
            self._peers.features, run.plan, feature_set, run.known_at, run.run_id
        )
        path = self._file(run, "snapshot.arrow")
        await asyncio.to_thread(tables.write_snapshot, taken.table, path)
        times = taken.table[tables.QUESTION_TIME].values
        output = {
            "feature_set": [feature_set.key.name, feature_set.key.version],
            "inputs": list(taken.inputs),
            "rows": taken.table.rows,
            "unlabelled_rows": taken.unlabelled_rows,
            "digest": taken.digest,
            "feature_snapshot_id": taken.feature_snapshot_id,
            "start_time": int(times.min()),
            "end_time": int(times.max()) + 1,
        }
        summary = (
            f"{taken.table.rows} labelled questions, {taken.unlabelled_rows} without a known label, "
            f"digest {taken.digest[:12]}"
        )
        return summary, output

    async def _table(self, run: Run) -> Columns:
        """Reads the snapshot back.

        Raises:
            FailedPreconditionError: The file is gone or not the one that was written.
        """
        path = self._file(run, "snapshot.arrow")
        if not path.exists():
            raise errors.FailedPreconditionError(
                errors.Reason.ARTIFACT_NOT_FOUND, "the run's snapshot file is gone; start a new run"
            )
        table = await asyncio.to_thread(tables.read_snapshot, path)
        if await asyncio.to_thread(snapshot.digest, table) != run.output("snapshot")["digest"]:
            raise errors.FailedPreconditionError(
                errors.Reason.DIGEST_MISMATCH, "the run's snapshot file was changed"
            )
        return table

    async def _validate(self, run: Run) -> Output:
        if not run.plan.suite:
            return "no suite", {}
        table = (await self._table(run)).select(run.output("snapshot")["inputs"])
        passed, message = await self._peers.validation.validate(run, run.plan.suite, table)
        if not passed:
            raise errors.FailedPreconditionError(errors.Reason.RULE_VIOLATED, message)
        return message, {}

    async def _train(self, run: Run) -> Output:
        await self._table(run)
        task = {
            "snapshot": str(self._file(run, "snapshot.arrow")),
            "model": str(self._file(run, "model.onnx")),
            "scores": str(self._file(run, "scores.npy")),
            "inputs": run.output("snapshot")["inputs"],
            "end": run.known_at,
            "holdout": run.plan.holdout,
            "gap": run.plan.gap,
            "minimum_rows": run.plan.minimum_rows,
            "trainer": run.plan.trainer,
            "parameters": dict(run.plan.trainer_parameters),
        }
        trained = dict(await self._peers.training.train(task))
        measured = ", ".join(f"{name} {value:.4f}" for name, value in trained["metrics"].items())
        summary = (
            f"{run.plan.trainer} on {trained['train_rows']} rows in {trained['fit_seconds']:.1f} s; "
            f"on {trained['test_rows']} held out: {measured}"
        )
        return summary, trained

    async def _evaluate(self, run: Run) -> Output:
        champion = await self._peers.registry.champion(run.plan.model)
        if champion is None:
            return "there is no champion to compare with", {}
        table = await self._table(run)
        parts = tables.masks(table, run.known_at, run.plan.holdout, run.plan.gap)
        test = table.filter(parts.test)
        score = await asyncio.to_thread(np.load, self._file(run, "scores.npy"), allow_pickle=False)
        inputs = await self._champion_inputs(run, champion, test)
        theirs = await self._peers.inference.scores(run.plan.model, champion, inputs)
        label = test[tables.LABEL].floats()
        champion_metrics = gate.measure(theirs, label, champion.threshold)
        judged = gate.judge(
            run.plan.gate_metric,
            run.plan.gate_tolerance,
            run.output("train")["metrics"],
            champion_metrics,
            gate.log_losses(score, label) - gate.log_losses(theirs, label),
            test[tables.QUESTION_TIME].values,
        )
        return judged.explanation, {
            "champion_version": champion.version,
            "champion_metrics": champion_metrics,
            "rejected": not judged.passed,
        }

    async def _champion_inputs(self, run: Run, champion: ports.Champion, test: Columns) -> Columns:
        """Returns what the champion would have seen: its own feature set may be another one."""
        name, version = run.output("snapshot")["feature_set"]
        if champion.feature_set == ports.FeatureSetKey(name, version):
            return test.select(champion.inputs)
        feature_set = await self._peers.features.exact_feature_set(champion.feature_set)
        spine = snapshot.spine_of(test, feature_set)
        joined = await self._peers.features.historical(champion.feature_set, spine)
        given = [test[each] for each in champion.inputs if each not in joined and each in test]
        return Columns(test.rows, [*joined.columns, *given]).select(champion.inputs)

    async def _package(self, run: Run) -> Output:
        path = self._file(run, "model.onnx")
        if not path.exists():
            raise errors.FailedPreconditionError(
                errors.Reason.ARTIFACT_NOT_FOUND, "the run's model file is gone; start a new run"
            )
        parity = run.output("train")["parity"]
        summary = (
            f"ONNX, {path.stat().st_size} bytes; differs from the estimator by up to "
            f"{parity['max_difference']:.1g} on {parity['rows']} rows"
        )
        return summary, {}

    async def _register(self, run: Run) -> Output:
        taken, trained = run.output("snapshot"), run.output("train")
        package = ports.Package(
            feature_set=ports.FeatureSetKey(*taken["feature_set"]),
            numbers=tuple(trained["numbers"]),
            texts=tuple(trained["texts"]),
            score_column=tables.SCORE,
            threshold=tables.DECISION_THRESHOLD,
            snapshot={
                **taken,
                "known_at": run.known_at,
                "train_rows": trained["train_rows"],
                "test_rows": trained["test_rows"],
            },
            metrics=trained["metrics"],
            metric_rows=trained["test_rows"],
            profiles=trained["profiles"],
            parity=trained["parity"],
            samples=trained.get("samples", {}),
            environment=trained["environment"],
            code_version=self._code_version,
            parent=run.champion_version,
        )
        version, digest = await self._peers.registry.register(
            run, package, self._file(run, "model.onnx")
        )
        return f"version {version}, manifest {digest[:12]}", {"version": version, "digest": digest}


async def _again(what: str, work: Callable[[], Awaitable[_T]]) -> _T:
    """Does something, again while whoever is needed is away or too busy."""
    for attempt in range(PATIENCE - 1):
        try:
            return await work()
        except _PASSING as error:
            _LOGGER.warning("%s waits: %s", what, error)
            await asyncio.sleep(min(5.0, 0.25 * 2**attempt))
    return await work()


def _with_results(run: Run, name: str, output: Mapping[str, Any]) -> Run:
    """Copies what people look for first from a step's output to the run."""
    if name == "train":
        return replace(run, metrics=output["metrics"])
    if name == "evaluate" and output:
        return replace(
            run,
            champion_version=output["champion_version"],
            champion_metrics=output["champion_metrics"],
        )
    if name == "register":
        return replace(run, version=output["version"], manifest_digest=output["digest"])
    return run
