"""What inference knows of a model version."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from setpoint_artifacts.samples import Samples
from setpoint_artifacts.signature import TensorSpec
from setpoint_inference.domain.batching import Batching
from setpoint_runtime import errors


class VersionKey(NamedTuple):
    """Names a version; a plain tuple, since it is looked up in every call."""

    model: str
    version: int

    def __str__(self) -> str:
        """Return the key as people write it."""
        return f"{self.model}/{self.version}"


class Format(enum.Enum):
    """What runs a version."""

    ONNX = enum.auto()
    SKOPS = enum.auto()
    EXTERNAL_OIP = enum.auto()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of a manifest that loading and running need."""

    key: VersionKey
    digest: str
    size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    examples: Mapping[str, Sequence[float | str]] = field(default_factory=dict)
    """Plausible values for some columns, from the reference profiles, to warm up with."""
    is_rejected: bool = False
    samples: Samples | None = None
    """Rows with recorded answers, compared before the version serves."""
    format: Format = Format.ONNX
    batching: Batching | None = None
    """How calls wait for each other; None for what the server does by default."""


def refused(key: VersionKey, reason: errors.Reason, message: str) -> errors.FailedPreconditionError:
    """Return the error for a version that cannot be loaded as it is."""
    return errors.FailedPreconditionError(
        reason, f"version {key}: {message}", metadata=metadata(key)
    )


def not_ready(
    key: VersionKey, why: str, retry_after_seconds: float | None = 1.0
) -> errors.UnavailableError:
    """Return the error for a version that cannot be loaded now."""
    return errors.UnavailableError(
        errors.Reason.MODEL_NOT_READY,
        f"version {key} is not ready: {why}",
        metadata=metadata(key),
        retry_after_seconds=retry_after_seconds,
    )


def not_loaded(key: VersionKey) -> errors.NotFoundError:
    """Return the error for a version that is not loaded."""
    return errors.NotFoundError(
        errors.Reason.MODEL_VERSION_NOT_FOUND,
        f"version {key} is not loaded",
        metadata=metadata(key),
    )


def copied(error: errors.SetpointError) -> errors.SetpointError:
    """Return an equal error: one exception raised to many callers would grow its traceback."""
    return type(error)(
        error.reason,
        error.message,
        violations=error.violations,
        metadata=error.metadata,
        retry_after_seconds=error.retry_after_seconds,
    )


def metadata(key: VersionKey) -> dict[str, str]:
    """Return the facts that every error about a version carries."""
    return {"model": key.model, "version": str(key.version)}
