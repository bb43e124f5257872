"""Work in flight at the same moment shares one call, and nobody waits for company.

A coalescer runs a bounded number of calls at once. Whatever is queued when one may start goes into
it, up to a bound; so batches form by themselves under load, and a lone item leaves on the same turn
of the event loop.
"""

import asyncio
import contextvars
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from setpoint_router.domain import refusal

_LOGGER = logging.getLogger(__name__)


BUSY_SECONDS = 0.0002
"""A turn of the loop that takes longer had other things to do. Starting a batch then would only
make it small: the requests that were read in that turn are not queued yet."""

REMEMBERED_CALLS = 8
"""Calls whose duration says how long a queue takes."""

LONGEST_DEFERRAL_SECONDS = 0.004
"""Of a batch on a busy loop; a batch costs as much work as twenty of its rows."""


PATIENCE_SECONDS = 0.020
"""How long a call in flight keeps the next one back while the loop has no time to spare."""

SATURATED = 0.4
"""Share of its time that a loop works when a further call could only make the others smaller: what
runs behind it is not what its callers wait for."""

_SAMPLE_SECONDS = 0.005


class Load:
    """How much of its time the loop's thread works, by the processor time that it takes."""

    __slots__ = ("_looked_at", "_spent", "is_saturated")

    def __init__(self) -> None:
        self.is_saturated = False
        self._looked_at = time.monotonic()
        self._spent = time.thread_time()

    def look(self) -> bool:
        """Say whether the loop is saturated; looks anew every few milliseconds."""
        now = time.monotonic()
        passed = now - self._looked_at
        if passed >= _SAMPLE_SECONDS:
            spent = time.thread_time()
            self.is_saturated = spent - self._spent > passed * SATURATED
            self._looked_at, self._spent = now, spent
        return self.is_saturated


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
    """Calls at once, for each replica; the second is prepared while the first one is away."""
    rows: int = 256
    """Rows of one call."""
    queued_rows: int = 4096
    """Rows waiting; further ones are refused."""


class Coalescer(Generic[T]):
    """Queues items and hands them over in batches."""

    __slots__ = (
        "_asked_at",
        "_bounds",
        "_context",
        "_durations",
        "_is_scheduled",
        "_load",
        "_loop",
        "_patience",
        "_queue",
        "_queued_rows",
        "_replicas",
        "_run",
        "_running",
        "_spent",
        "_tasks",
    )

    def __init__(
        self,
        run: Callable[[list[T]], Coroutine[Any, Any, None]],
        bounds: Bounds,
        load: Load | None = None,
        replicas: Callable[[], int] | None = None,
    ) -> None:
        """Prepare a coalescer.

        Args:
            run: Does the work of a batch; when it is over, another one may begin. It answers for
                every item itself; an exception is a defect and is logged.
            bounds: How much it carries.
            load: How busy the loop is.
            replicas: Returns among how many the calls are divided; each gets as many at once as the
                bounds say. One by default.
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
        self._load = Load() if load is None else load
        self._replicas = replicas
        self._patience: asyncio.TimerHandle | None = None
        self._is_scheduled = False
        self._asked_at = self._spent = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._durations: deque[float] = deque(maxlen=REMEMBERED_CALLS)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued and nothing runs."""
        return not self._queue and not self._tasks

    @property
    def is_full(self) -> bool:
        """Whether whatever comes is refused."""
        return self._queued_rows >= self._bounds.queued_rows

    @property
    def wait_seconds(self) -> float:
        """How long another item takes; 0 when it goes with one of the next calls.

        Counted are the full calls that are queued before it and its own, each as long as the last
        ones mostly were.
        """
        calls = self._queued_rows // self._bounds.rows
        if not calls or not self._durations:
            return 0.0
        usual = sorted(self._durations)[len(self._durations) // 2]
        at_once = self._bounds.calls * (1 if self._replicas is None else self._replicas())
        return usual * (1 + calls / at_once)

    def submit(self, item: T, until: float = math.inf) -> None:
        """Queue an item.

        Args:
            item: What to queue.
            until: When its call must be over, in seconds of `time.monotonic`.

        Raises:
            ResourceExhaustedError: Too many rows are waiting, or it would come too late.
        """
        rows = item.rows
        if self._queued_rows >= self._bounds.rows:
            wait = self.wait_seconds
            if time.monotonic() + wait > until:
                raise refusal.too_late(wait)
        if self._queued_rows + rows > self._bounds.queued_rows and self._queue:
            raise refusal.overloaded()
        self._queue.append(item)
        self._queued_rows += rows
        if not self._is_scheduled and self._may_call():
            if self._running and self._load.look():
                self._wait_for_a_call()
            else:
                self._schedule()

    async def drain(self) -> None:
        """Wait until everything submitted has been worked on."""
        while self._tasks or self._queue:
            await asyncio.wait(tuple(self._tasks)) if self._tasks else await asyncio.sleep(0)

    async def cancel(self) -> int:
        """Drop what waits and end what runs; return how many rows were dropped."""
        dropped = self._queued_rows
        self._queue.clear()
        self._queued_rows = 0
        running = tuple(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return dropped

    def _may_call(self) -> bool:
        """Say whether a further call may begin beside those that run."""
        running, calls = self._running, self._bounds.calls
        if running < calls or self._replicas is None:
            return running < calls
        return running < calls * self._replicas()

    def _wait_for_a_call(self) -> None:
        """Begin a batch when a call ends, which lets it grow, or when that takes too long."""
        if self._patience is None:
            self._patience = self._loop.call_later(
                PATIENCE_SECONDS, self._schedule, context=self._context
            )

    def _schedule(self) -> None:
        """Begin a batch on the next turn, so that items which arrived together go together."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._is_scheduled:
            return
        self._is_scheduled = True
        self._asked_at = time.monotonic()
        self._spent = time.thread_time()
        self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        """Begin when the loop has time; while it is busy, more items are on their way here."""
        # Time of the processor, not of the clock: a machine that has other things to do is no
        # reason to wait.
        spent = time.thread_time()
        is_busy = spent - self._spent > BUSY_SECONDS
        if is_busy and time.monotonic() - self._asked_at < LONGEST_DEFERRAL_SECONDS:
            self._spent = spent
            self._loop.call_soon(self._turn, context=self._context)
        else:
            self._is_scheduled = False
            self._start()

    def _start(self) -> None:
        while self._queue and self._may_call():
            self._running += 1
            task = self._loop.create_task(self._run(self._take()), context=self._context.copy())
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, time.monotonic()))

    def _ended(self, started: float, task: "asyncio.Task[None]") -> None:
        self._durations.append(time.monotonic() - started)
        self._tasks.discard(task)
        self._running -= 1
        if self._queue:
            self._schedule()
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
