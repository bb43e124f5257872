"""Settings of inference, from `SETPOINT_INFERENCE_*`."""

from pydantic import Field, field_validator

from setpoint_artifacts import external
from setpoint_inference.domain import batching, skops_types
from setpoint_runtime import settings
from setpoint_scoring import onnx_engine

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

    onnx_providers: tuple[str, ...] = (onnx_engine.CPU,)
    """Execution providers of onnxruntime as JSON, the preferred one first; the installed onnxruntime
    must bring them, and one that cannot start fails the load."""

    onnx_intra_threads: int = Field(default=1, ge=0)
    """Threads inside an operator; 0 means the number of cores. Calls in parallel use cores better."""

    onnx_inter_threads: int = Field(default=1, ge=0)
    """Operators of one run at once, for graphs with branches; 0 means the number of cores."""

    onnx_arena_bytes: int = Field(default=0, ge=0)
    """Most bytes of an arena shared by all sessions, 0 for none. It keeps its peak, and a run that
    needs more fails."""

    skops_enabled: bool = False
    """Whether versions of the format SKOPS are served, each in a sandboxed process of its own. Needs
    the extra `setpoint-inference[skops]`, and the registry to take the format."""

    skops_trusted_types: tuple[str, ...] = skops_types.DEFAULT
    """Types that a skops artifact may name beside those that skops itself trusts, as JSON. An
    artifact with any other is refused by the type's name before it is loaded."""

    skops_memory_bytes: int = Field(default=2048 * _MEBIBYTE, gt=0)
    """Address space of each process."""

    skops_call_seconds: float = Field(default=30.0, gt=0)
    """Longest time of one run; then its process is killed and started anew."""

    skops_sandbox_required: bool = True
    """Whether to refuse artifacts on a system that cannot take network and files away from the
    process: Linux with Landlock (5.13), and seccomp on x86-64 or ARM, unprivileged user namespaces, or
    Landlock for TCP (6.7). Without it an artifact must be trusted like code."""

    external_addresses: tuple[str, ...] = ()
    """Servers of the Open Inference Protocol that versions may name, `host:port` each, as JSON;
    versions of other servers are refused. Empty: no version may have one."""

    load_seconds: float = Field(default=120.0, gt=0)
    """Longest time for fetching, verifying and opening a version."""

    batch_max_rows: int = Field(default=batching.DEFAULT_ROWS, ge=0)
    """Most rows of a batch of calls that did not come through the router; 0 or 1 turns batching off.
    This and the following hold for versions whose manifest says nothing, and only where a run costs
    enough beside its rows."""

    batch_preferred_rows: tuple[int, ...] = ()
    """Rising numbers of rows with which a batch leaves without delay, as JSON."""

    batch_max_delay_microseconds: int = Field(default=0, ge=0)
    """How long a call waits for others while a thread is free; 0 joins only what waits anyway."""

    batch_max_queued: int = Field(default=1024, ge=0)
    """Calls of one version that wait; more are answered RESOURCE_EXHAUSTED. 0 for any number."""

    batch_timeout_microseconds: int = Field(default=0, ge=0)
    """How long a call waits in the queue; 0 for as long as its own deadline allows."""

    batch_timeout_action: batching.TimeoutAction = batching.TimeoutAction.REJECT
    """What becomes of it then: `reject` (DEADLINE_EXCEEDED) or `delay` (until nobody else waits)."""

    @field_validator("onnx_providers")
    @classmethod
    def _check_providers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        onnx_engine.check_providers(names)
        return names

    @field_validator("external_addresses")
    @classmethod
    def _check_addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            if not external.is_address(address):
                raise ValueError(f"{address!r} is not host:port")
        return addresses

    def onnx(self) -> onnx_engine.Options:
        """Return how onnxruntime runs models."""
        return onnx_engine.Options(
            self.onnx_providers,
            self.onnx_intra_threads,
            self.onnx_inter_threads,
            self.onnx_arena_bytes,
        )

    def batching(self) -> batching.Batching:
        """Return the rules by which calls wait for each other."""
        return batching.Batching(
            self.batch_max_rows,
            self.batch_preferred_rows,
            self.batch_max_delay_microseconds,
            self.batch_max_queued,
            self.batch_timeout_microseconds,
            self.batch_timeout_action,
        )
