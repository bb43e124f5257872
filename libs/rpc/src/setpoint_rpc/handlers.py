"""What the server does around every handler: statistics, deadline, errors, traces.

Handlers are wrapped once, when they are registered. Three wrappers serve the four shapes: whether the
request is one message or a stream changes nothing for them.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from opentelemetry import trace

from setpoint_rpc import context, failures, metrics, spans, status
from setpoint_rpc.http2 import endpoints
from setpoint_runtime import errors

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Any, Context], AsyncGenerator[Any, None]]

MINIMUM_SECONDS = 0.020
"""Work with less time than this cannot be useful and is refused."""

_RETRY_AFTER_OVERLOAD_SECONDS = 0.1
_REFUSALS_KEPT = 64
_OK = grpc.StatusCode.OK
_GOOD = (None, _OK)


@dataclass(slots=True)
class Guard:
    """What all handlers of a server share."""

    default_deadline_seconds: float
    """Time for a call with one answer whose caller set no deadline."""
    maximum_in_flight: int
    """Calls served at once; further ones are refused with OVERLOADED."""
    in_flight: int = 0
    is_draining: bool = False
    watchers: set["asyncio.Task[Any]"] = field(default_factory=set)
    """Tasks of endless streams, which are ended at the drain instead of waited for."""

    def end_watches(self) -> None:
        """End the endless streams with UNAVAILABLE, so that their callers go elsewhere."""
        self.is_draining = True
        for task in tuple(self.watchers):
            task.cancel()


@dataclass(frozen=True, slots=True)
class Method:
    """One method to be wrapped."""

    service: str
    name: str
    stats: metrics.MethodStats
    guard: Guard
    tracer: trace.Tracer | None = None
    """Makes a span for each call; None for no spans."""
    is_watch: bool = False
    """The stream goes on until the caller leaves."""


def wrap(handler: "grpc.RpcMethodHandler[Any, Any]", method: Method) -> endpoints.Endpoint:
    """Return how a method is served, with everything around its handler.

    Raises:
        TypeError: The handler is synchronous; a cancelled synchronous stream never ends.
    """
    request_shape = "stream" if handler.request_streaming else "unary"
    shape = f"{request_shape}_{'stream' if handler.response_streaming else 'unary'}"
    behaviour = getattr(handler, shape)
    codec = _Codec(handler)
    yields = handler.response_streaming and inspect.isasyncgenfunction(behaviour)
    if yields:
        serve: Any = _wrap_stream(behaviour, method, codec)
    elif not inspect.iscoroutinefunction(behaviour):
        raise TypeError(f"{method.service}/{method.name} is not an asynchronous handler")
    elif handler.response_streaming:
        serve = _wrap_writer(behaviour, method, codec)
    else:
        serve = _wrap_call(behaviour, method, codec)
    return endpoints.Endpoint(
        serve=serve,
        takes_stream=handler.request_streaming,
        yields=yields,
        read=codec.read,
        # A generator's answers are written inside the wrapper.
        write=_unchanged if yields else codec.write,
    )


def door(
    turned_away: Callable[[int], errors.SetpointError | None], method: Method
) -> Callable[[int], endpoints.Refusal | None]:
    """Return what finds the answer to a call that shall not be served, None for the others.

    Both are told how many calls have been let in whose handlers have not begun. A refusal must cost next to nothing: the answer is made once for an error and used as long as
    that one is given.
    """
    made: dict[errors.SetpointError, endpoints.Refusal] = {}

    def refusing(beginning: int) -> endpoints.Refusal | None:
        error = turned_away(beginning)
        if error is None:
            return None
        found = made.get(error)
        if found is None:
            if len(made) >= _REFUSALS_KEPT:
                made.clear()
            code = status.code_of(error)
            found = made[error] = endpoints.Refusal.of(
                error, lambda: method.stats.observe(code, 0.0)
            )
        return found

    return refusing


class _Codec:
    """Reads and writes messages where failures still become a status."""

    __slots__ = ("_deserialize", "read_unary", "write")

    def __init__(self, handler: "grpc.RpcMethodHandler[Any, Any]") -> None:
        self._deserialize = handler.request_deserializer
        self.write = handler.response_serializer or _unchanged
        # A stream's messages are read one by one, in the handler's own loop over them.
        self.read_unary = _unchanged if handler.request_streaming else self.read

    def read(self, raw: bytes) -> Any:
        """Return the message.

        Raises:
            InvalidArgumentError: The bytes are no such message.
        """
        if self._deserialize is None:
            return raw
        try:
            return self._deserialize(raw)
        except Exception as error:
            # Whatever the deserializer says is about bytes of the caller's making.
            raise errors.InvalidArgumentError(
                errors.Reason.INVALID_FIELD, "the request is not a message of the method's type"
            ) from error


def _unchanged(message: Any) -> Any:
    return message


def _wrap_call(behaviour: Call, method: Method, codec: _Codec) -> Call:
    """Wrap a coroutine that returns its one answer."""
    read, write = codec.read_unary, codec.write
    # A stream of requests takes as long as its sender does.
    default_seconds = method.guard.default_deadline_seconds if read == codec.read else None

    async def call(raw: Any, servicer_context: Context) -> Any:
        with _Serving(method, servicer_context, default_seconds) as serving:
            serving.admit()
            answering = behaviour(read(raw), servicer_context)
            if serving.has_default_deadline:
                answering = _within(method.guard, answering)
            answer = await answering
            return write(answer) if serving.is_good() else None

    return call


def _wrap_writer(behaviour: Call, method: Method, codec: _Codec) -> Call:
    """Wrap a coroutine that writes its answers through the context."""
    read = codec.read_unary

    async def writer(raw: Any, servicer_context: Context) -> None:
        with _Serving(method, servicer_context, None) as serving:
            serving.admit()
            await behaviour(read(raw), servicer_context)

    return writer


def _wrap_stream(behaviour: Stream, method: Method, codec: _Codec) -> Stream:
    """Wrap an asynchronous generator of answers."""
    read, write = codec.read_unary, codec.write

    async def stream(raw: Any, servicer_context: Context) -> AsyncGenerator[Any, None]:
        with _Serving(method, servicer_context, None) as serving:
            serving.admit()
            async with aclosing(behaviour(read(raw), servicer_context)) as answers:
                async for answer in answers:
                    yield write(answer)

    return stream


async def _within(guard: Guard, answer: Awaitable[Any]) -> Any:
    """Wait for the answer of a call whose caller would wait for ever."""
    scope = asyncio.timeout(guard.default_deadline_seconds)
    try:
        async with scope:
            return await answer
    except TimeoutError:
        if not scope.expired():
            raise
        raise errors.DeadlineExceededError(
            errors.Reason.DEADLINE_EXCEEDED,
            f"not done within {guard.default_deadline_seconds:g} s, the time of a call without deadline",
        ) from None


class _Serving:
    """One call from its arrival to its end.

    Statistics and span are outermost, then come the refusals, then the handler, whose exceptions
    end here: what was raised becomes a status, and nothing else of it reaches the caller.
    """

    __slots__ = ("_context", "_deadline", "_method", "_span", "_started", "has_default_deadline")

    def __init__(
        self, method: Method, servicer_context: Context, default_seconds: float | None
    ) -> None:
        self._method = method
        self._context = servicer_context
        self._span: spans.ServerSpan | None = None
        self._started = started = monotonic()
        # The stubs know neither that a deadline may be absent nor that a code may be unset.
        remaining: Any = servicer_context.time_remaining()
        self.has_default_deadline = remaining is None and default_seconds is not None
        seconds = default_seconds if remaining is None else remaining
        self._deadline = None if seconds is None else started + seconds

    def __enter__(self) -> "_Serving":
        method = self._method
        context.SERVED.set(context.ServedCall(self._context, self._deadline))
        method.stats.in_flight += 1
        method.guard.in_flight += 1
        if method.tracer is not None:
            self._span = spans.start(method.tracer, method.service, method.name)
        if method.is_watch and (task := asyncio.current_task()) is not None:
            method.guard.watchers.add(task)
        return self

    def admit(self) -> None:
        """Refuse work that cannot be useful, before it begins.

        Raises:
            DeadlineExceededError: Too little time is left.
            ResourceExhaustedError: Too many calls are being served.
            UnavailableError: An endless stream would begin while the server stops.
        """
        if self._deadline is not None and self._deadline - self._started < MINIMUM_SECONDS:
            raise errors.DeadlineExceededError(
                errors.Reason.DEADLINE_EXCEEDED,
                f"less than {MINIMUM_SECONDS * 1000:g} ms were left when the call arrived",
            )
        guard = self._method.guard
        if guard.in_flight > guard.maximum_in_flight:
            raise errors.ResourceExhaustedError(
                errors.Reason.OVERLOADED,
                "too many calls at once",
                retry_after_seconds=_RETRY_AFTER_OVERLOAD_SECONDS,
            )
        if guard.is_draining and self._method.is_watch:
            raise failures.stopping()

    def is_good(self) -> bool:
        """Say whether the handler left the status alone, so that its answer counts."""
        return self._own_code() in _GOOD

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        method = self._method
        method.stats.in_flight -= 1
        method.guard.in_flight -= 1
        if error is None:
            code, is_answered = self._own_code() or _OK, True
        else:
            code, is_answered = self._failed(error)
        if method.is_watch and (task := asyncio.current_task()) is not None:
            method.guard.watchers.discard(task)
        method.stats.observe(code, monotonic() - self._started)
        if self._span is not None:
            spans.end(self._span, code)
        return is_answered

    def _failed(self, error: BaseException) -> tuple[grpc.StatusCode, bool]:
        """Return the code of a failed call, and whether the caller has been answered here."""
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled()
        if isinstance(error, grpc.aio.AbortError):
            # The handler has answered by itself; answering twice is an error.
            return self._own_code() or grpc.StatusCode.UNKNOWN, False
        if not isinstance(error, Exception):
            return grpc.StatusCode.CANCELLED, False
        name = f"{self._method.service}/{self._method.name}"
        return failures.answer(self._context, error, name), True

    def _own_code(self) -> Any:
        """Return the code that the handler has set by itself, None when it has set none."""
        return self._context.code()

    def _cancelled(self) -> tuple[grpc.StatusCode, bool]:
        method = self._method
        task = asyncio.current_task()
        if method.guard.is_draining and task in method.guard.watchers:
            task.uncancel()
            return failures.answer(self._context, failures.stopping(), method.name), True
        is_late = self._deadline is not None and monotonic() >= self._deadline
        return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED, False
