"""Settings of the registry, from `SETPOINT_REGISTRY_*`."""

from typing import Literal

from pydantic import Field

from setpoint_runtime import settings

_MEBIBYTE = 1024 * 1024


class RegistrySettings(settings.RememberingSettings):
    """What the registry can be told."""

    model_config = settings.settings_config("registry")

    port: int = Field(default=7406, ge=0, le=65_535)
    """gRPC port."""

    database_url: str = "postgresql://127.0.0.1:5432/setpoint"
    """PostgreSQL database; the registry keeps to the schema `registry` in it."""

    artifact_url: str = "var/artifacts"
    """Where artifacts lie: a folder, or any URL that fsspec understands (`s3://bucket/prefix`)."""

    max_artifact_bytes: int = Field(default=256 * _MEBIBYTE, gt=0, lt=2048 * _MEBIBYTE)
    """Largest artifact that is taken; ONNX itself ends at 2 GiB. Checking one takes about three
    times its size in memory, one artifact at a time."""

    max_uploads: int = Field(default=8, gt=0)
    """Uploads received at once; each holds a few megabytes in memory and its size on disk."""

    formats: tuple[Literal["ONNX", "SKOPS", "EXTERNAL_OIP"], ...] = ("ONNX",)
    """Formats that are taken, as JSON. Inference must be told to serve those beside ONNX as well."""
