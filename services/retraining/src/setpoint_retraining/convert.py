"""Between contract messages and what retraining thinks in."""

from __future__ import annotations

from setpoint.retraining.v1 import retraining_pb2
from setpoint_retraining.domain import policy as policies
from setpoint_retraining.domain.policy import Policy, RolloutStep
from setpoint_retraining.domain.run import Run, Step
from setpoint_runtime import errors, ids


def policy_from_proto(message: retraining_pb2.Policy) -> Policy:
    """Converts a policy; what is left empty gets its default."""
    steps = tuple(
        RolloutStep(each.basis_points, each.hold_microseconds, each.minimum_predictions)
        for each in message.rollout_steps
    )
    return Policy(
        name=message.name,
        model=message.model,
        route=message.route,
        feature_set=message.feature_set,
        question_view=message.question_view,
        label_view=message.label_view,
        label_field=message.label_field,
        lookback=message.lookback_microseconds,
        holdout=message.holdout_microseconds,
        gap=message.gap_microseconds,
        trainer=message.trainer or policies.DEFAULT_TRAINER,
        trainer_parameters=dict(message.trainer_parameters),
        suite=message.suite,
        gate_metric=message.gate_metric or policies.DEFAULT_METRIC,
        gate_tolerance=message.gate_tolerance,
        automatic_approval=message.automatic_approval,
        rollout_steps=steps,
        minimum_rows=message.minimum_rows or policies.DEFAULT_MINIMUM_ROWS,
    )


def policy_to_proto(policy: Policy) -> retraining_pb2.Policy:
    """Converts a policy."""
    return retraining_pb2.Policy(
        name=policy.name,
        model=policy.model,
        route=policy.route,
        feature_set=policy.feature_set,
        question_view=policy.question_view,
        label_view=policy.label_view,
        label_field=policy.label_field,
        lookback_microseconds=policy.lookback,
        holdout_microseconds=policy.holdout,
        gap_microseconds=policy.gap,
        trainer=policy.trainer,
        trainer_parameters=policy.trainer_parameters,
        suite=policy.suite,
        gate_metric=policy.gate_metric,
        gate_tolerance=policy.gate_tolerance,
        automatic_approval=policy.automatic_approval,
        rollout_steps=[
            retraining_pb2.RolloutStep(
                basis_points=each.basis_points,
                hold_microseconds=each.hold_microseconds,
                minimum_predictions=each.minimum_predictions,
            )
            for each in policy.rollout_steps
        ],
        minimum_rows=policy.minimum_rows,
        create_time=policy.create_time,
    )


def run_to_proto(run: Run) -> retraining_pb2.Run:
    """Converts a run."""
    return retraining_pb2.Run(
        run_id=run.run_id,
        policy=run.plan.name,
        model=run.plan.model,
        trigger=run.trigger,
        known_at_time=run.known_at,
        state=retraining_pb2.RunState.ValueType(run.state),
        steps=[_step(each) for each in run.steps],
        version=run.version,
        manifest_digest=run.manifest_digest,
        champion_version=run.champion_version,
        metrics=run.metrics,
        champion_metrics=run.champion_metrics,
        rollout_step=run.rollout_step,
        rollout_step_time=run.rollout_step_time,
        error=run.error,
        error_reason=run.error_reason,
        create_time=run.create_time,
        end_time=run.end_time,
    )


def _step(step: Step) -> retraining_pb2.RunStep:
    return retraining_pb2.RunStep(
        name=step.name,
        done=step.done,
        start_time=step.start_time,
        end_time=step.end_time,
        summary=step.summary,
    )


def run_id(field: str, value: str) -> str:
    """Checks a run's id. Raises InvalidArgumentError."""
    if not ids.is_uuid(value):
        raise errors.invalid(field, value, "must be a UUID")
    return value.lower()
