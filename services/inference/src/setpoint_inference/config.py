"""Settings of inference, from `SETPOINT_INFERENCE_*`."""

from pydantic import Field

from setpoint_runtime import settings

_MEBIBYTE = 1024 * 1024


class InferenceSettings(settings.ServiceSettings):
    """What inference can be told."""

    model_config = settings.settings_config("inference")

    port: int = Field(default=7401, ge=0, le=65_535)
    """gRPC port."""

    registry_address: str = "127.0.0.1:7406"
    """Where the registry answers."""

    cache_directory: str = "var/inference/cache"
    """Verified artifacts by digest, and the manifests seen; may be deleted at any time."""

    max_cache_bytes: int = Field(default=4096 * _MEBIBYTE, gt=0)
    """Artifacts on disk; beyond, the ones unused for longest are removed."""

    max_artifact_bytes: int = Field(default=256 * _MEBIBYTE, gt=0)
    """Largest artifact that is loaded."""

    max_loaded_bytes: int = Field(default=1024 * _MEBIBYTE, gt=0)
    """Memory of the loaded versions, as measured when each was opened; beyond, those that only a
    call has loaded are dropped, the ones unused for longest first."""

    threads: int = Field(default=0, ge=0)
    """Calls that run at the same time off the event loop; 0 means the number of cores. Each runs on
    one thread."""

    max_queued: int = Field(default=64, ge=0)
    """Calls that wait for a thread; more are answered RESOURCE_EXHAUSTED (OVERLOADED)."""

    inline_microseconds: int = Field(default=200, ge=0, le=5_000)
    """A call that takes at most this long, by what was measured at load, runs on the event loop,
    because handing it to a thread costs more; it is the longest that the loop waits."""

    load_seconds: float = Field(default=120.0, gt=0)
    """Longest time for fetching, verifying and opening a version."""
