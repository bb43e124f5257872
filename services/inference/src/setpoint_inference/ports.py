"""What inference needs from outside."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from setpoint_artifacts.signature import Signature
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_scoring.packing import AnyArray, Feeds
from setpoint_scoring.runner import Stop

T = TypeVar("T")


class Versions(Protocol):
    """Where versions come from."""

    async def manifest(self, key: VersionKey) -> Manifest:
        """Return what a version is made of. Raises NotFoundError, UnavailableError."""

    async def artifact(self, manifest: Manifest) -> bytes:
        """Return the bytes that have the manifest's digest and size.

        Raises FailedPreconditionError (DIGEST_MISMATCH, ARTIFACT_NOT_FOUND), UnavailableError.
        """


class Inspector(Protocol):
    """A look into an artifact before it is opened."""

    async def inspect(self, data: bytes, digest: str) -> Signature:
        """Return what a model takes and gives. Raises setpoint_artifacts' RefusedError."""


class Remote(Protocol):
    """A version that runs outside this process."""

    async def run(self, feeds: Feeds, rows: int, timeout_seconds: float) -> Sequence[AnyArray]:
        """Return the served outputs, in order.

        Raises:
            UnavailableError: It cannot be reached, or was lost on the way.
            DeadlineExceededError: It took longer.
            ResourceExhaustedError: It has more calls than it can carry.
            InternalError: INFERENCE_FAILED, if these rows cannot be run.
        """

    def memory_bytes(self) -> int:
        """Return what it takes of this machine's memory."""

    async def close(self) -> None:
        """Let it go; no call runs any more."""


class Backend(Protocol):
    """What runs versions of a format outside this process."""

    async def open(self, manifest: Manifest, data: bytes) -> Remote:
        """Return a version ready to run. Raises setpoint_artifacts' RefusedError, SetpointError."""


class Workers(Protocol):
    """Threads: several that run models, and one that opens them."""

    async def run(
        self,
        job: Callable[[], T],
        estimate_us: float,
        remaining_seconds: float | None,
        stop: Stop,
        ended: Callable[[], None],
    ) -> T:
        """Run a job off the event loop.

        Args:
            job: The work.
            estimate_us: How long it is likely to take, microseconds.
            remaining_seconds: Time its caller has left.
            stop: Set when the caller goes away while the job runs.
            ended: Called on the event loop when the job can no longer run, however it ended,
                also when its caller has long gone.

        Raises:
            ResourceExhaustedError: OVERLOADED, if the queue is full or too long for the caller.
        """

    async def load(self, job: Callable[[], T]) -> T:
        """Run a job on the thread that opens models, after those before it."""
