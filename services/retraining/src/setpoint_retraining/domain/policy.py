"""How a model is retrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from setpoint_runtime import errors, names

EVERYTHING = 10_000
"""Basis points of all traffic."""

DEFAULT_TRAINER = "hist_gradient_boosting"
DEFAULT_METRIC = "log_loss"
DEFAULT_MINIMUM_ROWS = 1_000

MAXIMUM_COLUMN_NAME = 256
MAXIMUM_TEXT = 4_000
"""Characters."""

GATE_METRICS: Mapping[str, int] = {"log_loss": -1, "brier": -1, "roc_auc": 1, "accuracy": 1}
"""Metrics that can decide; 1 where higher is better, -1 where lower is."""


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """A share of traffic, held for a time of event time and a number of predictions."""

    basis_points: int
    hold_microseconds: int
    minimum_predictions: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that a run follows. Times are microseconds of event time."""

    name: str
    model: str
    route: str
    feature_set: str
    question_view: str
    label_view: str
    label_field: str
    lookback: int
    holdout: int
    gap: int
    trainer: str
    trainer_parameters: Mapping[str, str]
    suite: str
    gate_metric: str
    gate_tolerance: float
    automatic_approval: bool
    rollout_steps: tuple[RolloutStep, ...]
    minimum_rows: int
    create_time: int = 0


def check(policy: Policy) -> Policy:
    """Returns the policy if it can be followed.

    Raises:
        InvalidArgumentError: Names the field, the value and the rule.
    """
    for field in ("name", "model", "route", "feature_set", "question_view", "label_view"):
        names.check_name(f"policy.{field}", getattr(policy, field))
    if policy.suite:
        names.check_name("policy.suite", policy.suite)
    if not policy.label_field:
        raise errors.invalid("policy.label_field", "", "must be set", errors.Reason.MISSING_FIELD)
    check_text("policy.label_field", policy.label_field, MAXIMUM_COLUMN_NAME)
    _check_times(policy)
    if policy.gate_metric not in GATE_METRICS:
        rule = f"must be one of {', '.join(GATE_METRICS)}"
        raise errors.invalid("policy.gate_metric", policy.gate_metric, rule)
    if not 0 <= policy.gate_tolerance < float("inf"):
        raise errors.invalid(
            "policy.gate_tolerance", policy.gate_tolerance, "must be finite and not negative"
        )
    if policy.minimum_rows < 1:
        raise errors.invalid("policy.minimum_rows", policy.minimum_rows, "must be positive")
    _check_rollout(policy.rollout_steps)
    return policy


def check_text(field: str, value: str, maximum: int = MAXIMUM_TEXT) -> str:
    """Returns a text for people if the database can hold it. Raises InvalidArgumentError."""
    if len(value) > maximum:
        raise errors.invalid(
            field, value, f"must have at most {maximum} characters", errors.Reason.TOO_LARGE
        )
    if "\0" in value:
        raise errors.invalid(field, value, "must not contain the character NUL")
    return value


def _check_times(policy: Policy) -> None:
    if policy.holdout <= 0:
        raise errors.invalid("policy.holdout_microseconds", policy.holdout, "must be positive")
    if policy.gap < 0:
        raise errors.invalid("policy.gap_microseconds", policy.gap, "must not be negative")
    if policy.lookback <= policy.holdout + policy.gap:
        raise errors.invalid(
            "policy.lookback_microseconds",
            policy.lookback,
            "must be longer than hold-out and gap together",
        )


def _check_rollout(steps: tuple[RolloutStep, ...]) -> None:
    previous = 0
    for number, step in enumerate(steps):
        field = f"policy.rollout_steps[{number}]"
        if not previous < step.basis_points <= EVERYTHING:
            raise errors.invalid(
                f"{field}.basis_points",
                step.basis_points,
                f"must be more than the step before and at most {EVERYTHING}",
            )
        if step.hold_microseconds < 0:
            raise errors.invalid(
                f"{field}.hold_microseconds", step.hold_microseconds, "must not be negative"
            )
        if step.minimum_predictions < 0:
            raise errors.invalid(
                f"{field}.minimum_predictions", step.minimum_predictions, "must not be negative"
            )
        previous = step.basis_points
    if previous != EVERYTHING:
        raise errors.invalid(
            "policy.rollout_steps", previous, f"the last step must be {EVERYTHING} basis points"
        )
