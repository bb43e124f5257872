"""The demo from an empty folder to the summary."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import audit_service_pb2, feature_service_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2, prediction_pb2, report_pb2
from setpoint.registry.v1 import registry_service_pb2
from setpoint.retraining.v1 import retraining_pb2, retraining_service_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint.validation.v1 import validation_service_pb2
from setpoint_client import AsyncClient
from setpoint_client.stubs import AsyncStubs
from setpoint_demo import definitions, feed, flights, quality, streams
from setpoint_demo.lifecycle import ROLLOUT, Lifecycle, RunFailedError, day_text
from setpoint_demo.replay import CALLER, MICROSECOND, Replay, sample
from setpoint_demo.summary import Month, RolloutStep, Summary, Version
from setpoint_devstack import lock, stack
from setpoint_devstack.errors import AlreadyRunningError
from setpoint_runtime import ids

CONTROL_TIMEOUT_SECONDS = 30.0
RECORDS_WAIT_SECONDS = 60.0

FIRST_KNOWN_AT = datetime(2013, 4, 1, 4, tzinfo=UTC)
"""Midnight in New York: the first three months are training data, the rest is replayed."""

EVENT_TIME_ONLY = {
    "SETPOINT_MONITORING_EVALUATE_SECONDS": "0",
    "SETPOINT_RETRAINING_ADVANCE_SECONDS": "0",
}
"""The year 2013 is judged by its own time; the services' clocks would take it for long past."""

DEFAULT_SHARE = 0.13
"""Share of the flights that are asked about, some 33,000; all of them take a few times as long."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the demo runs."""

    directory: Path = Path("var/demo")
    """Everything that it writes, the stack's state included; the stack's state starts empty."""
    share: float = DEFAULT_SHARE
    """Share of the replayed flights that are asked about, (0, 1]."""
    last_month: int = 12
    """The replay ends with this month of 2013, 4 to 12."""
    approve: bool = True
    """Whether the demo gives the approvals that a person would give."""


@dataclass(frozen=True, slots=True)
class Told:
    """What came out of the demo, and one prediction of it with its whole story."""

    summary: Summary
    prediction: prediction_pb2.Prediction
    route: route_pb2.Route
    """The revision that the prediction was answered by."""


async def run(options: Options, console: Console) -> Told:
    """Runs the demo and writes ``summary.json`` into its directory.

    Raises:
        RunFailedError: A retraining run failed, or an approval is missing.
    """
    started = time.perf_counter()
    console.print("reading the flights that left New York in 2013 …")
    history = flights.read_history()
    frames = streams.streams(history)
    state = options.directory / "stack"
    if lock.is_held(state):
        raise AlreadyRunningError(
            f"a stack runs on {state}; stop it first, the demo empties that folder"
        )
    shutil.rmtree(state, ignore_errors=True)
    async with stack.Stack(state, environment=EVENT_TIME_ONLY) as running:
        console.print(f"all services run, logs in {state / 'logs'}")
        async with _client(running.addresses) as client:
            story = _Story(client.stubs, options, console, history, frames)
            summary = await story.tell(started)
            told = await _told(client.stubs, summary)
    summary.write(options.directory / "summary.json")
    return told


def _client(addresses: Mapping[str, str]) -> AsyncClient:
    return AsyncClient(
        router_address=addresses["router"],
        inference_address=addresses["inference"],
        feature_address=addresses["feature"],
        validation_address=addresses["validation"],
        monitoring_address=addresses["monitoring"],
        retraining_address=addresses["retraining"],
        registry_address=addresses["registry"],
        caller=CALLER,
    )


async def _told(services: AsyncStubs, summary: Summary) -> Told:
    found = await services.monitoring.GetPrediction(
        monitoring_service_pb2.GetPredictionRequest(prediction_id=summary.explained_prediction_id),
        timeout=CONTROL_TIMEOUT_SECONDS,
    )
    route = await services.router.GetRoute(
        router_service_pb2.GetRouteRequest(
            name=found.prediction.route, revision=found.prediction.route_revision
        ),
        timeout=CONTROL_TIMEOUT_SECONDS,
    )
    return Told(summary, found.prediction, route.route)


class _Story:
    """One telling: set-up, first version, replay, summary."""

    def __init__(
        self,
        services: AsyncStubs,
        options: Options,
        console: Console,
        history: flights.History,
        frames: dict[str, pl.DataFrame],
    ) -> None:
        self._services = services
        self._options = options
        self._console = console
        self._frames = frames
        self._begin = _microseconds(FIRST_KNOWN_AT)
        self._end = _microseconds(_month_after(options.last_month))
        self._questions = sample(self._questions_of(history.flights), options.share)
        self._rows_written = 0

    def _questions_of(self, frame: pl.DataFrame) -> pl.DataFrame:
        timed = frame.with_columns(
            question=pl.col("question_time").dt.timestamp("us"),
            landing=pl.col("landing_time").dt.timestamp("us"),
        )
        in_range = (pl.col("question") >= self._begin) & (pl.col("question") < self._end)
        return timed.filter(in_range).sort("question", "flight_id")

    async def tell(self, started: float) -> Summary:
        with _progress(self._console) as progress:
            await self._register()
            await self._backfill(progress)
            lifecycle = Lifecycle(self._services, self._options.approve, progress.console.print)
            await lifecycle.train_first(self._begin)
            replay = await self._replay(progress, lifecycle)
        self._console.print("counting records and comparing with the first version …")
        return await self._summarise(replay, lifecycle, started)

    async def _register(self) -> None:
        services = self._services
        for entity in definitions.ENTITIES:
            await services.feature.RegisterEntity(
                feature_service_pb2.RegisterEntityRequest(request_id=ids.uuid7(), entity=entity)
            )
        for view in definitions.VIEWS:
            await services.feature.RegisterFeatureView(
                feature_service_pb2.RegisterFeatureViewRequest(request_id=ids.uuid7(), view=view)
            )
        await services.feature.RegisterFeatureSet(
            feature_service_pb2.RegisterFeatureSetRequest(
                request_id=ids.uuid7(), feature_set=definitions.feature_set()
            )
        )
        await services.validation.PutSuite(
            validation_service_pb2.PutSuiteRequest(
                request_id=ids.uuid7(), suite=definitions.suite()
            )
        )
        await services.retraining.PutPolicy(
            retraining_service_pb2.PutPolicyRequest(
                request_id=ids.uuid7(), policy=definitions.policy(ROLLOUT)
            )
        )

    async def _backfill(self, progress: Progress) -> None:
        known = pl.col("created_time").dt.timestamp("us") <= self._begin
        past = {view: frame.filter(known) for view, frame in self._frames.items()}
        self._frames = {view: frame.filter(~known) for view, frame in self._frames.items()}
        task = progress.add_task(
            "history of January to March", total=sum(frame.height for frame in past.values())
        )
        for view, frame in past.items():
            self._rows_written += await feed.write(
                self._services, view, frame, lambda rows: progress.advance(task, rows)
            )

    async def _replay(self, progress: Progress, lifecycle: Lifecycle) -> Replay:
        replay = Replay(self._services, self._frames, self._questions)
        lifecycle.settle = replay.settle
        task = progress.add_task("replay", total=self._questions.height)

        async def on_day(midnight: int) -> None:
            progress.update(task, description=f"replay, {day_text(midnight)}")
            await lifecycle.on_day(midnight)

        await replay.run(self._end, on_day, lambda asked: progress.advance(task, asked))
        await replay.deliver_rest()
        self._rows_written += replay.rows_written
        return replay

    async def _summarise(self, replay: Replay, lifecycle: Lifecycle, started: float) -> Summary:
        answers = replay.answers
        failed = sum(answers.failures.values())
        for reason, count in answers.failures.items():
            self._console.print(f"[red]{count} predictions failed:[/] {reason}")
        if not answers.prediction_id:
            raise RunFailedError(f"no prediction was answered: {answers.failures}")
        records = await self._records(len(answers.prediction_id) + failed)
        replayed, differing = await self._replay_features()
        latencies = np.asarray(answers.latency_seconds) * 1e3
        return Summary(
            predictions_answered=len(answers.prediction_id),
            predictions_failed=failed,
            records_written=records,
            outcomes_delivered=replay.outcomes_delivered,
            feature_rows_written=self._rows_written,
            versions=await self._versions(replay, lifecycle),
            rollout=await self._rollout(),
            months=await self._months(replay),
            alerts=[each.summary for each in lifecycle.alerts_fired],
            predictions_per_s=len(latencies) / max(answers.asking_seconds, 1e-9),
            p50_ms=float(np.percentile(latencies, 50)),
            p99_ms=float(np.percentile(latencies, 99)),
            seconds=time.perf_counter() - started,
            explained_prediction_id=_worth_explaining(replay, self._questions),
            replayed_values=replayed,
            differing_values=differing,
        )

    async def _replay_features(self) -> tuple[int, int]:
        """Has every served feature computed again from the history; counts those that differ."""
        values, differing, after, newest = 0, 0, 0, 1
        while after < newest:
            answer = await self._services.audit.ReplayPredictions(
                audit_service_pb2.ReplayPredictionsRequest(after_record_id=after),
                timeout=CONTROL_TIMEOUT_SECONDS,
            )
            after, newest = answer.through_record_id, answer.newest_record_id
            for each in answer.feature_sets:
                values += each.values
                differing += sum(found.values for found in each.differences)
        return values, differing

    async def _records(self, expected: int) -> int:
        """Counts the predictions that monitoring holds, waiting for the last ones to be shipped."""
        deadline = time.monotonic() + RECORDS_WAIT_SECONDS
        while True:
            response = await self._services.monitoring.ListPredictions(
                monitoring_service_pb2.ListPredictionsRequest(model=definitions.MODEL, page_size=1),
                timeout=CONTROL_TIMEOUT_SECONDS,
            )
            if response.total_size >= expected or time.monotonic() > deadline:
                return response.total_size
            await asyncio.sleep(0.2)

    async def _months(self, replay: Replay) -> list[Month]:
        asked = self._questions[replay.answers.flight].with_columns(
            score=pl.Series(replay.answers.score, dtype=pl.Float64),
            version=pl.Series(replay.answers.version, dtype=pl.Int64),
        )
        months = []
        for number in range(4, self._options.last_month + 1):
            month = asked.filter(pl.col("month") == number)
            if month["late"].count():
                months.append(await self._month(number, month))
        return months

    async def _month(self, number: int, month: pl.DataFrame) -> Month:
        labelled = month.filter(pl.col("late").is_not_null())
        labels = labelled["late"].to_numpy().astype(np.bool_)
        first = await quality.scores_of_version(self._services, labelled, 1)
        version = Counter(month["version"].to_list()).most_common(1)[0][0]
        return Month(
            month=number,
            predictions=month.height,
            labelled=labelled.height,
            late_rate=float(labels.mean()),
            serving_versions=sorted(month["version"].unique().to_list()),
            serving=quality.measure(labelled["score"].to_numpy(), labels),
            first_version=quality.measure(first, labels),
            drift_alarms=await self._drift_alarms(number, version),
        )

    async def _drift_alarms(self, month: int, version: int) -> int:
        """Counts the columns that lie far from what the month's version was trained on."""
        start = datetime(2013, month, 1, 4, tzinfo=UTC)
        response = await self._services.monitoring.GetDrift(
            monitoring_service_pb2.GetDriftRequest(
                model_version=reference_pb2.ModelVersionReference(
                    model=definitions.MODEL, version=version
                ),
                range=reference_pb2.TimeRange(
                    start_time=_microseconds(start), end_time=_microseconds(_month_after(month))
                ),
            ),
            timeout=CONTROL_TIMEOUT_SECONDS,
        )
        alarm = report_pb2.DRIFT_LEVEL_ALARM
        return sum(finding.level == alarm for finding in response.findings)

    async def _versions(self, replay: Replay, lifecycle: Lifecycle) -> list[Version]:
        predictions = Counter(replay.answers.version)
        versions = []
        for run in lifecycle.runs:
            if not run.HasField("version"):
                continue
            response = await self._services.registry.GetModelVersion(
                registry_service_pb2.GetModelVersionRequest(
                    model_version=reference_pb2.ModelVersionReference(
                        model=run.model, version=run.version
                    )
                ),
                timeout=CONTROL_TIMEOUT_SECONDS,
            )
            snapshot = response.model_version.manifest.snapshot
            versions.append(
                Version(
                    version=run.version,
                    trained_until=day_text(snapshot.known_at_time),
                    train_rows=snapshot.train_rows,
                    trigger=run.trigger,
                    outcome=_outcome(run),
                    metrics=dict(run.metrics),
                    champion_metrics=dict(run.champion_metrics),
                    predictions=predictions[run.version],
                )
            )
        return versions

    async def _rollout(self) -> list[RolloutStep]:
        response = await self._services.router.ListRouteRevisions(
            router_service_pb2.ListRouteRevisionsRequest(name=definitions.ROUTE, page_size=1000),
            timeout=CONTROL_TIMEOUT_SECONDS,
        )
        return [
            RolloutStep(
                revision=route.revision,
                valid_from=day_text(route.valid_from),
                weights={str(each.version): each.basis_points for each in route.weights},
                moved_slots=route.moved_slots,
                reason=route.reason,
            )
            for route in reversed(response.routes)
        ]


def _worth_explaining(replay: Replay, questions: pl.DataFrame) -> str:
    """Chooses the last prediction of the newest version whose outcome is known."""
    newest = max(replay.answers.version)
    late = questions["late"]
    answered = list(
        zip(
            replay.answers.flight,
            replay.answers.version,
            replay.answers.prediction_id,
            strict=True,
        )
    )
    known = [each for each in answered if each[1] == newest and late[each[0]] is not None]
    return (known or answered)[-1][2]


def _outcome(run: retraining_pb2.Run) -> str:
    state = retraining_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()
    if run.champion_metrics:
        compared = ", ".join(
            f"{name} {run.metrics[name]:.4f} against {value:.4f}"
            for name, value in sorted(run.champion_metrics.items())
            if name in run.metrics
        )
        return f"{state.replace('_', ' ')}: {compared}"
    return f"{state.replace('_', ' ')}{': ' + run.error if run.error else ''}"


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND


def _month_after(month: int) -> datetime:
    if month == 12:
        return datetime(2014, 1, 1, 5, tzinfo=UTC)
    return datetime(2013, month + 1, 1, 4, tzinfo=UTC)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
