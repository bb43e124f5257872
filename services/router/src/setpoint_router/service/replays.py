"""Requests with an id are worked on once; repetitions share what became of the first.

All of it is in the memory of this process, within bounds, for a time. It protects against callers who
ask again because they have not heard the answer, not against restarts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

Key = tuple[str, str]
Work = Callable[[], Awaitable[bytes]]

_ENTRY_BYTES = 600
"""Of an entry beside its answer."""

_LARGEST_SHARE = 4
"""An answer that would take more than this part of the room is not kept."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is kept."""

    seconds: float = 600.0
    entries: int = 20_000
    size: int = 64 * 1024 * 1024
    """Bytes."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What became of a request."""

    fingerprint: bytes
    until: float
    answer: bytes
    error: errors.InvalidArgumentError | None

    @property
    def size(self) -> int:
        return _ENTRY_BYTES + len(self.answer) + _text_size(self.error)


@dataclass(frozen=True, slots=True)
class _Running:
    """A request that is being worked on, and its outcome: None when only its caller is gone."""

    fingerprint: bytes
    outcome: "asyncio.Future[bytes | None]"


class Replays:
    """Remembers requests."""

    def __init__(
        self,
        clock: clocks.Clock,
        bounds: Bounds,
        *,
        on_replay: Callable[[], None] = lambda: None,
        on_forgotten: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin with nothing.

        Args:
            clock: Time.
            bounds: How much is kept, and how long.
            on_replay: Told of each request that was answered with the outcome of another.
            on_forgotten: Told of each answer that had to go before its time.
        """
        self._clock = clock
        self._bounds = bounds
        self._on_replay = on_replay
        self._on_forgotten = on_forgotten
        self._running: dict[Key, _Running] = {}
        self._kept: dict[Key, _Kept] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._size

    def __len__(self) -> int:
        """Return how many outcomes are kept."""
        return len(self._kept)

    async def once(
        self, caller: str, request_id: str, fingerprint: bytes, work: Work
    ) -> tuple[bytes, bool]:
        """Do work, or return what it came to when it was asked for before.

        Args:
            caller: Whose request it is; ids of different callers have nothing to do with each other.
            request_id: A UUID.
            fingerprint: Of everything that is asked.
            work: Does it.

        Returns:
            The answer, and whether it is the answer to an earlier request.

        Raises:
            AlreadyExistsError: The id belongs to another request.
            SetpointError: What the work, or the earlier request, failed with.
        """
        if not ids.is_uuid(request_id):
            raise errors.invalid("request_id", request_id, "must be a UUID in lower case")
        key = caller, request_id
        while True:
            self._expire()
            kept = self._kept.get(key)
            if kept is not None:
                _check(kept.fingerprint, fingerprint, request_id)
                self._on_replay()
                if kept.error is not None:
                    raise _replayed(kept.error)
                return kept.answer, True
            running = self._running.get(key)
            if running is None:
                return await self._first(key, fingerprint, work), False
            _check(running.fingerprint, fingerprint, request_id)
            answer = await asyncio.shield(running.outcome)
            if answer is not None:
                self._on_replay()
                return answer, True

    async def _first(self, key: Key, fingerprint: bytes, work: Work) -> bytes:
        outcome = asyncio.get_running_loop().create_future()
        self._running[key] = _Running(fingerprint, outcome)
        try:
            answer = await work()
        except errors.InvalidArgumentError as error:
            # Never the error itself: it holds every frame that it came through, and the request.
            self._keep(key, fingerprint, b"", _replayed(error))
            _fail(outcome, error)
            raise
        except (asyncio.CancelledError, errors.DeadlineExceededError):
            # That was the first caller's time; the others have their own.
            outcome.set_result(None)
            raise
        except Exception as error:
            _fail(outcome, error)
            raise
        else:
            self._keep(key, fingerprint, answer, None)
            outcome.set_result(answer)
            return answer
        finally:
            del self._running[key]

    def _keep(
        self, key: Key, fingerprint: bytes, answer: bytes, error: errors.InvalidArgumentError | None
    ) -> None:
        until = self._clock.monotonic() + self._bounds.seconds
        kept = _Kept(fingerprint, until, answer, error)
        if kept.size > self._bounds.size // _LARGEST_SHARE:
            self._on_forgotten()
            return
        self._kept[key] = kept
        self._size += kept.size
        while len(self._kept) > self._bounds.entries or self._size > self._bounds.size:
            self._forget_oldest()
            self._on_forgotten()

    def _expire(self) -> None:
        now = self._clock.monotonic()
        # Kept in the order in which they end.
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        key = next(iter(self._kept))
        self._size -= self._kept.pop(key).size


def _check(known: bytes, fingerprint: bytes, request_id: str) -> None:
    if known != fingerprint:
        raise errors.AlreadyExistsError(
            errors.Reason.REQUEST_ID_REUSED,
            f"request_id {request_id} belongs to another request",
            metadata={"request_id": request_id},
        )


def _replayed(error: errors.InvalidArgumentError) -> errors.InvalidArgumentError:
    return errors.InvalidArgumentError(
        error.reason,
        error.message,
        violations=error.violations,
        metadata={**error.metadata, "replayed": "true"},
    )


def _text_size(error: errors.InvalidArgumentError | None) -> int:
    if error is None:
        return 0
    found = sum(len(each.field) + len(each.description) for each in error.violations)
    return 4 * (len(error.message) + found)


def _fail(outcome: "asyncio.Future[bytes | None]", error: Exception) -> None:
    outcome.set_exception(error)
    # Most of the time nobody else waits, which is no defect.
    outcome.exception()
