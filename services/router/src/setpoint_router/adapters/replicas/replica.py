"""One replica of inference: its channel, what it says of itself, and its calls in flight."""

import asyncio
import enum
import logging
from collections.abc import Callable, Collection
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no annotations

from setpoint.common.v1 import reference_pb2
from setpoint.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from setpoint_router.adapters.replicas.discovery import Target
from setpoint_router.domain.outliers import Outliers, Standing
from setpoint_rpc import channel, health
from setpoint_runtime import errors

LOAD_SECONDS = 30.0
"""Fetching and verifying an artifact may take a while; traffic waits for it on purpose."""

ANSWER_SECONDS = 1.0
"""For the first answer of a new watch, after one that was good has ended."""

PAUSES_SECONDS = (0.0, 0.05, 0.2, 1.0)
"""Between watches that ended; core's own back-off comes on top."""

_WATCH = health_pb2.HealthCheckRequest(service="")
_LIVENESS = health_pb2.HealthCheckRequest(service=health.LIVENESS)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_LOGGER = logging.getLogger(__name__)

VersionKey = tuple[str, int]
"""Model and version."""


class State(enum.Enum):
    """What is known of a replica, best first."""

    SERVING = "serving"
    UNKNOWN = "unknown"
    """It does not answer, or has not yet."""
    NOT_SERVING = "not serving"
    """It asks for no more calls; those in flight go on."""


class Replica:
    """A replica; `changed` is called when its state is another one."""

    def __init__(
        self, target: Target, outliers: Outliers, changed: Callable[["Replica"], None]
    ) -> None:
        """Open a channel; nothing is asked before `watch`."""
        self.name = target.address
        self.target = target
        self.state = State.UNKNOWN
        self.standing: Standing = outliers.join()
        self.loaded: set[VersionKey] = set()
        """Versions known to be in its memory."""
        self.is_leaving = False
        """Discovery does not name it any more."""
        self.rows = 0
        """In flight."""
        self.calls: set[Any] = set()
        """In flight."""
        self.answered = self.failed = self.ejected = 0
        """Calls that ended well, calls that ended without a word from the service, ejections."""
        self._changed = changed
        self._channel = channel.connect(
            target.address, client="router", authority=target.authority, is_replica=True
        )
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self.predict = self._stub.Predict

    @property
    def is_good(self) -> bool:
        """Whether it may be given calls without a second thought."""
        return self.state is State.SERVING and not self.standing.is_out and not self.is_leaving

    async def load(self, key: VersionKey, lease_seconds: float) -> None:
        """Make a version ready, and have it kept for a lease.

        Raises:
            SetpointError: It cannot be.
        """
        model, version = key
        request = inference_service_pb2.LoadModelRequest(
            model_version=_reference(key), lease_microseconds=round(lease_seconds * 1e6)
        )
        call = self._stub.LoadModel(request, timeout=LOAD_SECONDS)
        # Among the calls in flight, so that a replica which stalls does not hold up routes.
        self.calls.add(call)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise errors.UnavailableError(
                errors.Reason.UNAVAILABLE, f"inference at {self.name} has stalled"
            ) from None
        finally:
            self.calls.discard(call)
        if answer.model.state != inference_service_pb2.LOAD_STATE_READY:
            raise errors.UnavailableError(
                errors.Reason.MODEL_NOT_READY,
                answer.model.error or f"version {version} of {model} is not ready",
            )

    async def renew(self, keys: Collection[VersionKey], lease_seconds: float) -> set[VersionKey]:
        """Have versions kept for another lease; return those that are not ready there.

        Raises:
            SetpointError: It does not answer.
        """
        request = inference_service_pb2.RenewLeasesRequest(
            model_versions=map(_reference, keys), lease_microseconds=round(lease_seconds * 1e6)
        )
        try:
            answer = await self._stub.RenewLeases(request)
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        return {(each.model, each.version) for each in answer.not_ready}

    async def is_alive(self, seconds: float) -> bool:
        """Say whether the process answers anything at all within a time."""
        try:
            await self._health.Check(_LIVENESS, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            return is_answer(error)
        except grpc.aio.UsageError:
            # It was let go in this very moment, which is no defect of who asks.
            return False
        return True

    async def watch(self) -> None:
        """Follow what the replica says of itself, for ever.

        A watch that ends tells nothing yet: connections are renewed now and then. The next one
        tells: if it is not answered, the replica is not there.
        """
        failures = 0
        while True:
            failures = 0 if await self._follow() else failures + 1
            if failures:
                self._set(State.UNKNOWN)
            await asyncio.sleep(PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)])

    async def _follow(self) -> bool:
        """Follow one watch to its end, and say whether it was answered."""
        is_serving = self.state is State.SERVING
        seconds: float | None = ANSWER_SECONDS if is_serving else None
        call = self._health.Watch(_WATCH, wait_for_ready=not is_serving)
        is_answered = False
        try:
            while True:
                async with asyncio.timeout(seconds):
                    answer = await call.read()
                if answer is grpc.aio.EOF:
                    return is_answered
                is_answered, seconds = True, None
                is_serving = answer.status == _SERVING
                self._set(State.SERVING if is_serving else State.NOT_SERVING)
        except (grpc.aio.AioRpcError, TimeoutError):
            return is_answered
        finally:
            call.cancel()

    def _set(self, state: State) -> None:
        if state is self.state:
            return
        _LOGGER.info("inference at %s: %s", self.name, state.value)
        self.state = state
        self.standing.is_up = state is State.SERVING
        if state is not State.SERVING:
            # It may come back as a new process with nothing in memory.
            self.loaded.clear()
        self._changed(self)

    def abandon(self) -> None:
        """Give up the calls in flight; whoever waits for them looks elsewhere."""
        for call in tuple(self.calls):
            call.cancel()

    async def close(self) -> None:
        """Close the channel; calls in flight end."""
        await self._channel.close()


def _reference(key: VersionKey) -> reference_pb2.ModelVersionReference:
    return reference_pb2.ModelVersionReference(model=key[0], version=key[1])


def is_cancelled() -> bool:
    """Say whether the current task is being cancelled, rather than a call that it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def is_answer(error: grpc.aio.AioRpcError) -> bool:
    """Say whether the service itself sent an error, rather than the way to it."""
    trailing: Any = error.trailing_metadata() or ()
    return any(key == _DETAILS_KEY for key, _ in trailing)


_DETAILS_KEY = "grpc-status-details-bin"
