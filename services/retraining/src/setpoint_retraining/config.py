"""Settings of retraining, from `SETPOINT_RETRAINING_*`."""

from pathlib import Path

from pydantic import Field

from setpoint_runtime import settings


class RetrainingSettings(settings.RememberingSettings):
    """What retraining can be told."""

    model_config = settings.settings_config("retraining")

    port: int = Field(default=7405, ge=0, le=65_535)
    """gRPC port."""

    database_url: str = "postgresql://127.0.0.1:5432/setpoint"
    """PostgreSQL database; retraining keeps to the schema `retraining` in it."""

    work_directory: Path = Path("var/retraining")
    """Snapshots and models of runs, until they are registered."""

    feature_address: str = "127.0.0.1:7402"
    """The feature service."""

    registry_address: str = "127.0.0.1:7406"
    """The registry."""

    router_address: str = "127.0.0.1:7400"
    """The router whose routes are shifted."""

    monitoring_address: str = "127.0.0.1:7404"
    """Monitoring, which judges rollout steps."""

    validation_address: str = "127.0.0.1:7403"
    """Validation, which judges snapshots."""

    inference_address: str = "127.0.0.1:7401"
    """Inference, which asks the champion."""

    code_version: str = "unknown"
    """Version of the code that trains, as it shall stand in manifests: a commit, for one."""

    training_threads: int = Field(default=1, ge=1)
    """Threads of one training. One gives the same model from the same data, byte for byte, and does not
    stall on a machine that has other work; more are quicker on idle cores."""

    poll_seconds: float = Field(default=1.0, gt=0)
    """How often a worker looks for runs that nobody woke it for."""

    lease_seconds: float = Field(default=30.0, ge=1)
    """How long a run stays with a worker that gives no sign of life; then another one takes it."""

    advance_seconds: float = Field(default=10.0, ge=0)
    """How often rollouts are looked at by the service's clock; 0 leaves them to AdvanceRollout."""
