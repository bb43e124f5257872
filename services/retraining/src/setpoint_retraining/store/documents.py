"""Policies and runs as JSON documents, both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from setpoint_retraining.domain.policy import Policy, RolloutStep
from setpoint_retraining.domain.run import Run, RunState, Step


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """Writes a policy."""
    return dataclasses.asdict(policy)


def policy_from_json(body: Mapping[str, Any]) -> Policy:
    """Reads a policy."""
    steps = tuple(RolloutStep(**each) for each in body["rollout_steps"])
    return Policy(**{**body, "rollout_steps": steps})


def run_to_json(run: Run) -> dict[str, Any]:
    """Writes a run; its etag is a column of its own."""
    body = dataclasses.asdict(run)
    del body["etag"]
    return {**body, "state": int(run.state)}


def run_from_json(body: Mapping[str, Any], etag: int) -> Run:
    """Reads a run."""
    told = dict(body)
    told["plan"] = policy_from_json(told["plan"])
    told["state"] = RunState(told["state"])
    told["steps"] = tuple(Step(**each) for each in told["steps"])
    return Run(**told, etag=etag)
