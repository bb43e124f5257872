"""What opens and runs models."""

from collections.abc import Sequence
from typing import Protocol

from setpoint_artifacts.signature import Signature
from setpoint_scoring.packing import AnyArray, Feeds


class Stop(Protocol):
    """Ends a run from another thread, at its next operator."""

    def set(self) -> None:
        """End the run."""


class Runner(Protocol):
    """An opened model. `run` may be called by several threads at once."""

    def stop(self) -> Stop:
        """Return a handle that can end one run."""

    def run(self, feeds: Feeds, stop: Stop | None = None) -> Sequence[AnyArray]:
        """Return the served outputs, in order. Raises InternalError (INFERENCE_FAILED)."""


class Engine(Protocol):
    """Opens models."""

    def open(self, data: bytes, signature: Signature, outputs: Sequence[str]) -> Runner:
        """Open an inspected model; blocks. Raises setpoint_artifacts' RefusedError."""
