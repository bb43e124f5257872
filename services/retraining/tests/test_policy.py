from dataclasses import replace
from typing import Any

import pytest

from setpoint_retraining import testing
from setpoint_retraining.domain import policy as policies
from setpoint_retraining.domain.policy import RolloutStep
from setpoint_runtime import errors


def test_check_returns_good_policy() -> None:
    """A policy that can be followed comes back as it is."""
    assert policies.check(testing.policy()) == testing.policy()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "policy.name"),
        ({"model": "Late"}, "policy.model"),
        ({"route": "a/b"}, "policy.route"),
        ({"feature_set": "a b"}, "policy.feature_set"),
        ({"question_view": ""}, "policy.question_view"),
        ({"label_view": "ü"}, "policy.label_view"),
        ({"label_field": ""}, "policy.label_field"),
        ({"label_field": "la\0te"}, "policy.label_field"),
        ({"label_field": "x" * 257}, "policy.label_field"),
        ({"suite": "a/b"}, "policy.suite"),
        ({"holdout": 0}, "policy.holdout_microseconds"),
        ({"gap": -1}, "policy.gap_microseconds"),
        ({"lookback": 5 * testing.DAY}, "policy.lookback_microseconds"),
        ({"gate_metric": "f1"}, "policy.gate_metric"),
        ({"gate_tolerance": -0.1}, "policy.gate_tolerance"),
        ({"gate_tolerance": float("nan")}, "policy.gate_tolerance"),
        ({"gate_tolerance": float("inf")}, "policy.gate_tolerance"),
        ({"minimum_rows": -1}, "policy.minimum_rows"),
        ({"rollout_steps": ()}, "policy.rollout_steps"),
        ({"rollout_steps": (RolloutStep(5_000, 0, 0),)}, "policy.rollout_steps"),
    ],
)
def test_check_names_field(change: dict[str, Any], field: str) -> None:
    """What cannot be followed is refused by the name of its field."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        policies.check(testing.policy(**change))
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("step", "field"),
    [
        (RolloutStep(0, 0, 0), "basis_points"),
        (RolloutStep(1_000, 0, 0), "basis_points"),
        (RolloutStep(10_001, 0, 0), "basis_points"),
        (RolloutStep(2_000, -1, 0), "hold_microseconds"),
        (RolloutStep(2_000, 0, -1), "minimum_predictions"),
    ],
)
def test_check_names_rollout_step(step: RolloutStep, field: str) -> None:
    """A bad step of the rollout is named by its number and field; shares must rise."""
    plan = replace(
        testing.policy(), rollout_steps=(RolloutStep(1_000, 0, 0), step, testing.LAST_STEP)
    )
    with pytest.raises(errors.InvalidArgumentError) as caught:
        policies.check(plan)
    assert caught.value.violations[0].field == f"policy.rollout_steps[1].{field}"
