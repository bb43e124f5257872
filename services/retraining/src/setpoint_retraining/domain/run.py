"""A run's states and steps. Each step is stored when it is done; after a crash the next one begins."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from setpoint_retraining.domain.policy import Policy

STEPS = ("snapshot", "validate", "train", "evaluate", "package", "register", "approve", "rollout")
WORK_STEPS = STEPS[:6]
"""Steps that a worker does; the others wait for people and traffic."""


class RunState(enum.IntEnum):
    """Where a run stands; the numbers are those of the contract."""

    QUEUED = 1
    RUNNING = 2
    AWAITING_APPROVAL = 3
    ROLLING_OUT = 4
    SUCCEEDED = 5
    FAILED = 6
    REJECTED = 7
    ROLLED_BACK = 8
    CANCELLED = 9


ENDED = frozenset(
    {
        RunState.SUCCEEDED,
        RunState.FAILED,
        RunState.REJECTED,
        RunState.ROLLED_BACK,
        RunState.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step; output is what later steps need, as JSON values."""

    name: str
    start_time: int
    end_time: int = 0
    summary: str = ""
    output: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether it is finished."""
        return self.end_time > 0


@dataclass(frozen=True, slots=True)
class Run:
    """One retraining. Times are microseconds UTC."""

    run_id: str
    plan: Policy
    """The policy as it was when the run was started."""
    trigger: str
    known_at: int
    state: RunState
    create_time: int
    steps: tuple[Step, ...] = ()
    version: int | None = None
    manifest_digest: str = ""
    champion_version: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    champion_metrics: Mapping[str, float] = field(default_factory=dict)
    rollout_step: int = -1
    rollout_step_time: int = 0
    error: str = ""
    error_reason: str = ""
    end_time: int = 0
    etag: int = 0
    """Grows with each change; a change is based on one."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    def output(self, step: str) -> Mapping[str, Any]:
        """Returns what a finished step left for later ones; empty if it is not finished."""
        found = next((each for each in self.steps if each.name == step and each.done), None)
        return found.output if found else {}

    def next_step(self) -> str | None:
        """Returns the first step of the worker's that is not done."""
        done = {each.name for each in self.steps if each.done}
        return next((name for name in WORK_STEPS if name not in done), None)

    def begin(self, name: str, now: int) -> Run:
        """Notes that a step begins; one that was begun before a crash begins anew."""
        kept = tuple(each for each in self.steps if each.name != name)
        return replace(self, state=RunState.RUNNING, steps=(*kept, Step(name, now)))

    def finish(self, name: str, now: int, summary: str, output: Mapping[str, Any]) -> Run:
        """Notes that a step is done."""
        steps = tuple(
            replace(each, end_time=now, summary=summary, output=output)
            if each.name == name
            else each
            for each in self.steps
        )
        return replace(self, steps=steps)

    def end(self, state: RunState, now: int, error: str = "", reason: str = "") -> Run:
        """Ends the run."""
        return replace(self, state=state, end_time=now, error=error, error_reason=reason)

    def request_id(self, action: str) -> str:
        """Names an action of this run for other services, the same however often it is tried."""
        return str(uuid.uuid5(uuid.UUID(self.run_id), action))
