"""What keeps the model true: alerts, retraining, approval, and the rollout, driven by event time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc

from setpoint.monitoring.v1 import monitoring_service_pb2, report_pb2
from setpoint.retraining.v1 import retraining_pb2, retraining_service_pb2
from setpoint_client.stubs import AsyncStubs
from setpoint_demo import definitions
from setpoint_demo.replay import MICROSECOND
from setpoint_runtime import ids

RUN_TIMEOUT_SECONDS = 180.0
CONTROL_TIMEOUT_SECONDS = 30.0

REST_BETWEEN_RUNS = timedelta(days=75) // MICROSECOND
"""After a run, decay is watched for this long before the next one is started."""

APPROVER = "demo"

_AT_WORK = (
    retraining_pb2.RUN_STATE_UNSPECIFIED,
    retraining_pb2.RUN_STATE_QUEUED,
    retraining_pb2.RUN_STATE_RUNNING,
)


class RunFailedError(Exception):
    """A retraining run did not end as the story needs; the message says where it stopped and why."""


def day_text(time: int) -> str:
    """Writes a time (microseconds UTC) as a date."""
    return f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d}"


def hold(days: int, basis_points: int, minimum: int) -> retraining_pb2.RolloutStep:
    """Makes a rollout step."""
    return retraining_pb2.RolloutStep(
        basis_points=basis_points,
        hold_microseconds=timedelta(days=days) // MICROSECOND,
        minimum_predictions=minimum,
    )


ROLLOUT = (hold(3, 1_000, 50), hold(3, 5_000, 200), hold(0, 10_000, 0))
"""A tenth, half, all."""


@dataclass(slots=True)
class Lifecycle:
    """Watches the alerts each day, retrains when quality has decayed, and moves rollouts on."""

    services: AsyncStubs
    approve: bool
    """Whether the demo gives the approval that a person would give."""
    say: Callable[[str], None]
    settle: Callable[[], Awaitable[None]] | None = None
    """Waits until all that is known by now is stored; a run's snapshot must not miss any of it."""
    runs: list[retraining_pb2.Run] = field(default_factory=list)
    alerts_fired: list[report_pb2.Alert] = field(default_factory=list)
    _rolling: str | None = None
    _decay: report_pb2.Alert | None = None
    _last_run_time: int = 0

    async def train_first(self, known_at: int) -> None:
        """Trains, approves and serves the first version."""
        run = await self._retrain(known_at, "first version")
        if not self.approve:
            raise RunFailedError(
                f"version {run.version} waits for approval: setpoint approve {run.run_id}"
            )
        await self._decide(run, known_at)

    async def on_day(self, time: int) -> None:
        """Does what a day's end brings: judges windows, moves the rollout, maybe retrains."""
        request = monitoring_service_pb2.EvaluateAlertsRequest(
            model=definitions.MODEL, as_of_time=time
        )
        response = await self.services.monitoring.EvaluateAlerts(
            request, timeout=CONTROL_TIMEOUT_SECONDS
        )
        for alert in response.changed:
            self._take_alert(alert)
        if self._rolling is not None:
            await self._advance(self._rolling, time)
        elif self._decay is not None and time - self._last_run_time >= REST_BETWEEN_RUNS:
            await self._react(self._decay, time)

    def _take_alert(self, alert: report_pb2.Alert) -> None:
        """Notes what has begun to fire, and whether realised quality of the champion is bad now."""
        if alert.state == report_pb2.ALERT_STATE_FIRING:
            self.alerts_fired.append(alert)
        if alert.cause != report_pb2.ALERT_CAUSE_PERFORMANCE or not self._serves(alert):
            return
        if alert.state == report_pb2.ALERT_STATE_FIRING:
            self.say(f"[yellow]alert[/]   {day_text(alert.fire_time)}: {alert.summary}")
            self._decay = alert
        elif alert.state == report_pb2.ALERT_STATE_RESOLVED:
            self.say(
                f"[yellow]alert[/]   {day_text(alert.resolve_time)}: {alert.subject} recovered"
            )
            self._decay = None

    def _serves(self, alert: report_pb2.Alert) -> bool:
        promoted = [
            run.version for run in self.runs if run.state == retraining_pb2.RUN_STATE_SUCCEEDED
        ]
        return bool(promoted) and alert.model_version.version == promoted[-1]

    async def _react(self, alert: report_pb2.Alert, time: int) -> None:
        run = await self._retrain(time, f"alert: {alert.summary}")
        if run.state == retraining_pb2.RUN_STATE_AWAITING_APPROVAL and self.approve:
            await self._decide(run, time)

    async def _retrain(self, known_at: int, trigger: str) -> retraining_pb2.Run:
        self.say(f"[cyan]retrain[/] {day_text(known_at)}: {trigger}")
        self._last_run_time = known_at
        if self.settle is not None:
            await self.settle()
        request = retraining_service_pb2.StartRunRequest(
            request_id=ids.uuid7(),
            policy=definitions.POLICY,
            known_at_time=known_at,
            trigger=trigger,
        )
        started = await self.services.retraining.StartRun(request, timeout=CONTROL_TIMEOUT_SECONDS)
        run = await self._follow(started.run)
        if run.state == retraining_pb2.RUN_STATE_FAILED:
            raise RunFailedError(f"run {run.run_id} failed: {run.error_reason}: {run.error}")
        self.say(_result_of(run))
        self._note(run)
        return run

    async def _follow(self, run: retraining_pb2.Run) -> retraining_pb2.Run:
        """Watches a run until it ends or waits for a person.

        A stream lives no longer than its connection, which servers renew every few minutes.
        """
        request = retraining_service_pb2.WatchRunRequest(run_id=run.run_id, stop_at_approval=True)
        while run.state in _AT_WORK:
            watched = self.services.retraining.WatchRun(request, timeout=RUN_TIMEOUT_SECONDS)
            try:
                async for response in watched:
                    run = response.run
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
        return run

    async def _decide(self, run: retraining_pb2.Run, time: int) -> None:
        """Gives the approval; the rollout begins."""
        response = await self.services.retraining.DecideRun(
            retraining_service_pb2.DecideRunRequest(
                request_id=ids.uuid7(),
                run_id=run.run_id,
                approve=True,
                manifest_digest=run.manifest_digest,
                approver=APPROVER,
                comment="given by the demo's flag",
                as_of_time=time,
            ),
            timeout=CONTROL_TIMEOUT_SECONDS,
        )
        self.say(f"[green]approve[/] version {run.version}, manifest {run.manifest_digest[:12]}…")
        self._note(response.run)

    async def _advance(self, run_id: str, time: int) -> None:
        response = await self.services.retraining.AdvanceRollout(
            retraining_service_pb2.AdvanceRolloutRequest(run_id=run_id, as_of_time=time),
            timeout=CONTROL_TIMEOUT_SECONDS,
        )
        self._note(response.run)
        if response.changed:
            self.say(f"[magenta]rollout[/] {day_text(time)}: {response.explanation}")

    def _note(self, run: retraining_pb2.Run) -> None:
        self.runs = [each for each in self.runs if each.run_id != run.run_id] + [run]
        rolling = run.state == retraining_pb2.RUN_STATE_ROLLING_OUT
        self._rolling = run.run_id if rolling else None
        if run.state == retraining_pb2.RUN_STATE_SUCCEEDED:
            # What the old version did wrong is no reason to replace the new one.
            self._decay = None


def _result_of(run: retraining_pb2.Run) -> str:
    measured = ", ".join(
        f"{name} {value:.4f}"
        + (f" (champion {run.champion_metrics[name]:.4f})" if name in run.champion_metrics else "")
        for name, value in sorted(run.metrics.items())
    )
    state = retraining_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()
    version = f"version {run.version}" if run.HasField("version") else "no version"
    spent = ", ".join(
        f"{step.name} {(step.end_time - step.start_time) / 1e6:.1f} s"
        for step in run.steps
        if step.done
    )
    return f"[cyan]retrain[/] {version}, {state.replace('_', ' ')}: {measured} ({spent})"
