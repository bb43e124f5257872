"""A small world for tests of retraining: policies, runs, and peers that record what they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_retraining import ports
from setpoint_retraining.domain.policy import Policy, RolloutStep
from setpoint_retraining.domain.run import Run, RunState
from setpoint_retraining.training import table as tables
from setpoint_runtime import errors, ids

DAY = 86_400_000_000
"""Microseconds."""

START = 20_000 * DAY
DAYS = 20
KNOWN_AT = START + DAYS * DAY
FEATURE_SET = ports.FeatureSet(
    key=ports.FeatureSetKey("features", "a" * 64),
    keys={"question": DataType.INT64},
    features=("x", "colour"),
    request_fields={"y": DataType.FLOAT64},
)


def policy(**changes: Any) -> Policy:
    """Return a policy that can be followed, with changes."""
    given = Policy(
        name="weekly",
        model="late",
        route="late",
        feature_set="features",
        question_view="questions",
        label_view="labels",
        label_field="late",
        lookback=30 * DAY,
        holdout=4 * DAY,
        gap=DAY,
        trainer="logistic_regression",
        trainer_parameters={},
        suite="",
        gate_metric="log_loss",
        gate_tolerance=0.0,
        automatic_approval=False,
        rollout_steps=(RolloutStep(1_000, DAY, 10), RolloutStep(5_000, DAY, 10), LAST_STEP),
        minimum_rows=100,
    )
    return replace(given, **changes)


LAST_STEP = RolloutStep(10_000, 0, 0)


def run(plan: Policy | None = None, **changes: Any) -> Run:
    """Return a queued run, with changes."""
    made = Run(ids.uuid7(), plan or policy(), "test", KNOWN_AT, RunState.QUEUED, KNOWN_AT)
    return replace(made, **changes)


def rolling_out(**changes: Any) -> Run:
    """Return a run whose version 2 was approved."""
    given = {"state": RunState.ROLLING_OUT, "version": 2, "manifest_digest": "d" * 64}
    return run(**{**given, **changes})


def snapshot(rows: int = 1_000, seed: int = 0) -> Columns:
    """Return a labelled table: x and y matter, some values are missing, labels come an hour later."""
    random = np.random.default_rng(seed)
    x, y = random.normal(size=rows), random.normal(size=rows)
    colour = random.choice(["red", "grün", "blue"], size=rows)
    label = (x + 0.5 * y + (colour == "red") + random.logistic(size=rows) * 0.5 > 0).astype(float)
    time = START + np.sort(random.integers(0, DAYS * DAY, size=rows))
    missing = random.random(rows) < 0.05
    return Columns(
        rows,
        [
            Column.from_numpy("x", x, mask=missing),
            Column.from_list(
                "colour",
                [None if gone else str(each) for each, gone in zip(colour, missing, strict=True)],
                DataType.STRING,
            ),
            Column.from_numpy("y", y),
            Column.from_numpy(tables.KEY_PREFIX + "question", np.arange(rows)),
            Column.from_numpy(tables.QUESTION_TIME, time, dtype=DataType.TIMESTAMP),
            Column.from_numpy(tables.LABEL_TIME, time + DAY // 24, dtype=DataType.TIMESTAMP),
            Column.from_numpy(tables.LABEL, label),
        ],
    )


@dataclass
class FakeFeatures:
    """Implements `ports.Features` from a snapshot."""

    table: Columns = field(default_factory=snapshot)
    away: int = 0
    """How many calls fail before the service is back."""
    calls: list[str] = field(default_factory=list)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.away > 0:
            self.away -= 1
            raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "features are away")

    async def feature_set(self, name: str) -> ports.FeatureSet:
        """Return the feature set."""
        self._called(f"feature_set {name}")
        return FEATURE_SET

    async def exact_feature_set(self, key: ports.FeatureSetKey) -> ports.FeatureSet:
        """Return the feature set under another key."""
        self._called(f"exact_feature_set {key.name}")
        return replace(FEATURE_SET, key=key)

    async def entity_keys(self, view: str) -> tuple[str, ...]:
        """Return the question's key."""
        return ("question",)

    async def read_view(self, view: str, start: int, end: int, known_at: int) -> Columns:
        """Return the questions or their labels."""
        self._called(f"read_view {view}")
        table = self.table
        key = table[tables.KEY_PREFIX + "question"].rename("question")
        if view == "labels":
            time, value = table[tables.LABEL_TIME], table[tables.LABEL].rename("late")
        else:
            time, value = table[tables.QUESTION_TIME], table["y"]
        rows = Columns(table.rows, [key, time.rename("event_time"), value])
        return rows.filter((time.values >= start) & (time.values < end))

    async def historical(self, feature_set: ports.FeatureSetKey, spine: Columns) -> Columns:
        """Return the features of each question."""
        self._called("historical")
        return self.table.select(["x", "colour"]).take(spine["question"].values)

    async def freeze(
        self, request_id: str, feature_set: ports.FeatureSetKey, spine: Columns, description: str
    ) -> ports.Frozen:
        """Return the features of each question; the token is the request's."""
        return ports.Frozen(await self.historical(feature_set, spine), request_id)


@dataclass
class FakeRegistry:
    """Implements `ports.Registry`; requests are remembered by action and run, as the real one does."""

    serving: ports.Champion | None = None
    away: int = 0
    registered: list[tuple[str, ports.Package]] = field(default_factory=list)
    decisions: list[tuple[bool, str, str]] = field(default_factory=list)
    promoted: list[tuple[int | None, str, int]] = field(default_factory=list)

    async def champion(self, model: str) -> ports.Champion | None:
        """Return the version that serves."""
        if self.away > 0:
            self.away -= 1
            raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "registry is away")
        return self.serving

    async def register(self, run: Run, package: ports.Package, artifact: Path) -> tuple[int, str]:
        """Note the package; every run makes version 2."""
        self.registered.append((run.run_id, package))
        return 2, "d" * 64

    async def decide(
        self, run: Run, approve: bool, digest: str, approver: str, comment: str
    ) -> None:
        """Note the decision."""
        self.decisions.append((approve, digest, approver))

    async def promote(self, run: Run, alias: str, valid_from: int, reason: str) -> None:
        """Note the move of an alias."""
        self.promoted.append((run.version, alias, valid_from))


@dataclass
class FakeRoutes:
    """Implements `ports.Routes`; an action that was done once is not done again."""

    weights: dict[int, int] | None = field(default_factory=lambda: {1: 10_000})
    changes: list[tuple[str, dict[int, int], int]] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    taking_part: int = 10_000

    async def current(self, route: str) -> ports.RouteState | None:
        """Return the route."""
        if self.weights is None:
            return None
        return ports.RouteState(len(self.changes) + 1, dict(self.weights), self.taking_part)

    async def set_weights(
        self, run: Run, action: str, weights: Mapping[int, int], valid_from: int, reason: str
    ) -> None:
        """Change the route once per action of the run."""
        request_id = run.request_id(f"route-{action}")
        self.request_ids.append(request_id)
        if self.request_ids.count(request_id) > 1:
            return
        self.weights = dict(weights)
        self.changes.append((action, dict(weights), valid_from))


@dataclass
class FakeMonitoring:
    """Implements `ports.Monitoring` with a verdict that the test sets."""

    verdict: ports.Verdict = ports.Verdict.PASS
    asked: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)

    async def compare(
        self,
        run: Run,
        candidate: int,
        baseline: int,
        since: int,
        until: int,
        basis_points: int,
        minimum_predictions: int,
    ) -> ports.GateAnswer:
        """Return the verdict."""
        self.asked.append((candidate, baseline, since, until, basis_points, minimum_predictions))
        return ports.GateAnswer(self.verdict, "as the test says")


@dataclass
class FakeValidation:
    """Implements `ports.Validation`."""

    passes: bool = True
    suites: list[str] = field(default_factory=list)

    async def validate(self, run: Run, suite: str, table: Columns) -> tuple[bool, str]:
        """Return what the test wants."""
        self.suites.append(suite)
        return self.passes, "2 of 2 rules hold" if self.passes else "x: 3 rows are null"


@dataclass
class FakeInference:
    """Implements `ports.Inference`: a champion that gives each row the same score."""

    score: float = 0.5
    seen: list[Columns] = field(default_factory=list)

    async def scores(
        self, model: str, champion: ports.Champion, inputs: Columns
    ) -> npt.NDArray[np.float64]:
        """Return one score for every row."""
        self.seen.append(inputs)
        return np.full(inputs.rows, self.score)


def champion(feature_set: ports.FeatureSetKey = FEATURE_SET.key) -> ports.Champion:
    """Return version 1 that sees x alone."""
    return ports.Champion(1, feature_set, ("x",), tables.SCORE, 0.5)
