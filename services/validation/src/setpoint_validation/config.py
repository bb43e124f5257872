"""Settings of validation, from `SETPOINT_VALIDATION_*`."""

from pydantic import Field

from setpoint_runtime import settings

_MEBIBYTE = 1024 * 1024


class ValidationSettings(settings.RememberingSettings):
    """What validation can be told."""

    model_config = settings.settings_config("validation")

    port: int = Field(default=7403, ge=0, le=65_535)
    """gRPC port."""

    database_url: str = "postgresql://127.0.0.1:5432/setpoint"
    """PostgreSQL database; validation keeps to the schema `validation` in it."""

    max_rows: int = Field(default=10_000_000, gt=0, le=10_000_000)
    """Most rows of a table that is judged; the contract promises no more."""

    max_table_bytes: int = Field(default=1024 * _MEBIBYTE, gt=0)
    """Most memory for the columns of a table that its rules look at; other columns are not kept."""

    max_batches: int = Field(default=2, gt=0)
    """Tables received and judged at once; each has a thread and may take `max_table_bytes`."""

    piece_seconds: float = Field(default=30.0, gt=0)
    """Longest wait for the next piece of a table, lest a caller that hangs keeps a place."""

    poll_seconds: float = Field(default=1.0, gt=0)
    """How often other replicas' changes of rules are looked for."""
