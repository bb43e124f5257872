"""Settings of the batch service, from `SETPOINT_BATCH_*`."""

import os
from pathlib import Path

from pydantic import Field

from setpoint_runtime import settings


class BatchSettings(settings.RememberingSettings):
    """What the batch service can be told."""

    model_config = settings.settings_config("batch")

    port: int = Field(default=7407, ge=0, le=65_535)
    """gRPC port."""

    database_url: str = "postgresql://127.0.0.1:5432/setpoint"
    """PostgreSQL database; the service keeps to the schema `batch` in it."""

    work_directory: Path = Path("var/batch")
    """Model artifacts, kept by digest; may be emptied at any time."""

    feature_address: str = "127.0.0.1:7402"
    """The feature service."""

    registry_address: str = "127.0.0.1:7406"
    """The registry."""

    validation_address: str = "127.0.0.1:7403"
    """Validation, which has the rules."""

    url_prefixes: tuple[str, ...] = ("file:///",)
    """Where jobs may read and write, as a JSON list: any local folder by default. Narrow it where
    callers are not trusted with everything that this process can reach."""

    processes: int = Field(default=os.cpu_count() or 1, ge=1)
    """Partitions that are worked on at once on this machine, each in a process of its own."""

    niceness: int = Field(default=10, ge=0, le=19)
    """How far these processes step back behind others."""

    idle_seconds: float = Field(default=30.0, ge=0)
    """How long a process without work is kept."""

    partition_rows: int = Field(default=100_000, ge=1)
    """Rows of a partition, about: what is lost when a process dies. A Parquet row group is never
    divided, however large."""

    chunk_rows: int = Field(default=10_000, ge=1, le=100_000)
    """Rows that are in memory at once in each process."""

    ray_cluster: str = ""
    """Address of a Ray cluster that works on the partitions instead, such as `ray://head:10001` or
    `auto`. Its machines must reach files and services by the same names. Needs setpoint-batch[ray]."""

    ray_tasks: int = Field(default=64, ge=1)
    """Partitions that are given to Ray at once."""

    retention_seconds: float = Field(default=30 * 86_400, gt=0)
    """How long an ended job keeps its plan, its parts' list and the rows that came with it, and an
    artifact its place in the work directory after its last use. Jobs themselves and outputs stay."""

    poll_seconds: float = Field(default=1.0, gt=0)
    """How often a worker looks for jobs that nobody woke it for."""

    lease_seconds: float = Field(default=30.0, ge=1)
    """How long a job stays with a worker that gives no sign of life; then another one takes it."""
