"""Work in flight at the same moment shares one call, and nobody waits for company.

A coalescer runs a bounded number of calls at once. Whatever is queued when one may start goes into
it, up to a bound; so batches form by themselves under load, and a lone item leaves on the same turn
of the event loop.
"""

import asyncio
import contextvars
import functools
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from setpoint_router.domain import refusal

_LOGGER = logging.getLogger(__name__)


class Sized(Protocol):
    """Something that counts as a number of rows."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...


T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a coalescer carries."""

    calls: int = 2
    """Calls at once; the second is prepared while the first one is away."""
    rows: int = 256
    """Rows of one call."""
    queued_rows: int = 4096
    """Rows waiting; further ones are refused."""


class Slot:
    """The right to one call of a coalescer; given back once, the next batch begins."""

    __slots__ = ("_coalescer",)

    def __init__(self, coalescer: "Coalescer[Any]") -> None:
        self._coalescer: Coalescer[Any] | None = coalescer

    def release(self) -> None:
        """Give the right back; what remains to be done for the batch needs none."""
        coalescer, self._coalescer = self._coalescer, None
        if coalescer is not None:
            coalescer.freed()


class Coalescer(Generic[T]):
    """Queues items and hands them over in batches."""

    __slots__ = (
        "_bounds",
        "_context",
        "_is_scheduled",
        "_loop",
        "_queue",
        "_queued_rows",
        "_run",
        "_running",
        "_tasks",
    )

    def __init__(
        self, run: Callable[[list[T], Slot], Coroutine[Any, Any, None]], bounds: Bounds
    ) -> None:
        """Prepare a coalescer.

        Args:
            run: Does the work of a batch and releases the slot as soon as the shared call is over.
                It answers for every item itself; an exception is a defect and is logged.
            bounds: How much it carries.
        """
        self._run = run
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        # A batch belongs to no request: the deadline and trace of the call that happened to start
        # it are not its own.
        self._context = contextvars.Context()
        self._queue: deque[T] = deque()
        self._queued_rows = 0
        self._running = 0
        self._is_scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued and nothing runs."""
        return not self._queue and not self._tasks

    def submit(self, item: T) -> None:
        """Queue an item.

        Raises:
            ResourceExhaustedError: Too many rows are waiting.
        """
        rows = item.rows
        if self._queued_rows + rows > self._bounds.queued_rows and self._queue:
            raise refusal.overloaded()
        self._queue.append(item)
        self._queued_rows += rows
        if not self._is_scheduled and self._running < self._bounds.calls:
            # One turn later, so that requests which arrived together go together.
            self._is_scheduled = True
            self._loop.call_soon(self._start, context=self._context)

    def freed(self) -> None:
        """Begin the next batch, since a slot is free."""
        self._running -= 1
        if self._queue:
            self._start()

    async def drain(self) -> None:
        """Wait until everything submitted has been worked on."""
        while self._tasks or self._queue:
            await asyncio.wait(tuple(self._tasks)) if self._tasks else await asyncio.sleep(0)

    def _start(self) -> None:
        self._is_scheduled = False
        while self._queue and self._running < self._bounds.calls:
            self._running += 1
            slot = Slot(self)
            work = self._run(self._take(), slot)
            task = self._loop.create_task(work, context=self._context.copy())
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._ended, slot))

    def _ended(self, slot: Slot, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        slot.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOGGER.error("a batch ended with an unexpected error", exc_info=error)

    def _take(self) -> list[T]:
        queue, limit = self._queue, self._bounds.rows
        if self._queued_rows <= limit:
            batch = list(queue)
            queue.clear()
            self._queued_rows = 0
            return batch
        batch = [queue.popleft()]
        rows = batch[0].rows
        while queue and rows + queue[0].rows <= limit:
            item = queue.popleft()
            rows += item.rows
            batch.append(item)
        self._queued_rows -= rows
        return batch
