"""Adaptive batching: calls for the same version that wait at the same moment run together.

Nobody waits when a thread is free, unless the rules say for how long. While all are busy calls gather,
and the next free thread takes as many as a batch may hold. A member that leaves, expires or breaks its
batch is its own affair: the others get their answers.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from setpoint_inference.domain import version
from setpoint_inference.domain.batching import Batching, TimeoutAction
from setpoint_runtime import errors
from setpoint_scoring.packing import Feeds, Output

Start = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


class Ran(NamedTuple):
    """What one run said, of all its rows."""

    outputs: list[Output]
    run_us: int


class Joined(NamedTuple):
    """What a run said to one of its members."""

    outputs: list[Output]
    queue_us: int
    run_us: int


_OF_THE_SERVER = (errors.UnavailableError, errors.ResourceExhaustedError)
"""What a run fails with for reasons of the machine, not of its rows."""

Run = Callable[[Feeds, int, float | None], Awaitable[Ran]]
"""Runs tensors, given rows and the time that the most patient caller has left, in seconds."""


@dataclass(eq=False, slots=True)
class _Member:
    feeds: Feeds
    rows: int
    deadline: float | None
    queued: float
    answer: asyncio.Future[Joined]
    batch: "_Batch | None" = None


@dataclass(eq=False, slots=True)
class _Batch:
    members: list[_Member]
    task: asyncio.Task[None] | None = None


class Batcher:
    """The queue of one version; lives on the event loop and needs no lock."""

    def __init__(
        self,
        name: str,
        rules: Batching,
        slots: int,
        run: Run,
        start: Start,
        now: Callable[[], float],
    ) -> None:
        """Make an empty queue.

        Args:
            name: The version, for logs.
            rules: How calls wait.
            slots: Batches that run at once.
            run: Runs a batch.
            start: Starts a task that somebody owns.
            now: Monotonic seconds.
        """
        self._name = name
        self._rules = rules
        self._slots = slots
        self._run = run
        self._start = start
        self._now = now
        self._waiting: deque[_Member] = deque()
        self._delayed: deque[_Member] = deque()
        self._rows = 0
        self._running = 0
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self.batches = 0

    def takes(self, rows: int) -> bool:
        """Tell whether a call of so many rows may share a batch."""
        return 0 < rows <= self._rules.max_rows

    async def join(self, feeds: Feeds, rows: int, remaining_seconds: float | None) -> Joined:
        """Run rows together with whoever else waits.

        Raises:
            ResourceExhaustedError: OVERLOADED, if the queue is full.
            DeadlineExceededError: The call waited for longer than the rules allow.
            SetpointError: What running these very rows raised.
        """
        queued = len(self._waiting) + len(self._delayed)
        if 0 < self._rules.max_queued <= queued:
            raise errors.ResourceExhaustedError(
                errors.Reason.OVERLOADED, f"{queued} calls are waiting", retry_after_seconds=0.05
            )
        now = self._now()
        deadline = None if remaining_seconds is None else now + remaining_seconds
        answer: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()
        member = _Member(feeds, rows, deadline, now, answer)
        self._waiting.append(member)
        self._rows += rows
        self._wake()
        try:
            return await answer
        finally:
            self._left(member)

    def _left(self, member: _Member) -> None:
        """Forget a member whose caller has its answer, or has gone."""
        batch = member.batch
        if batch is None:
            for queue in (self._waiting, self._delayed):
                if member in queue:
                    queue.remove(member)
                    self._rows -= member.rows
        elif batch.task is not None and all(each.answer.done() for each in batch.members):
            # Nobody is left to hear the answer; a finished task takes no notice.
            batch.task.cancel()

    def _wake(self) -> None:
        """Look at the queue after the calls that are arriving at this moment."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_due = False
        now = self._now()
        self._expire(now)
        while self._rows and self._running < self._slots and self._may_leave(now):
            self._send(self._take())
        self._set_timer(now)

    def _expire(self, now: float) -> None:
        timeout = self._rules.timeout_us / 1e6
        while timeout and self._waiting and self._waiting[0].queued + timeout <= now:
            member = self._waiting.popleft()
            if self._rules.timeout_action is TimeoutAction.DELAY:
                self._delayed.append(member)
                continue
            self._rows -= member.rows
            if not member.answer.done():
                member.answer.set_exception(
                    errors.DeadlineExceededError(
                        errors.Reason.DEADLINE_EXCEEDED,
                        f"the call waited for {self._rules.timeout_us} us in the queue",
                    )
                )

    def _may_leave(self, now: float) -> bool:
        rules = self._rules
        if not rules.max_delay_us or self._delayed:
            return True
        enough = min((rules.max_rows, *rules.preferred_rows[:1]))
        oldest = self._waiting[0].queued
        return self._rows >= enough or oldest + rules.max_delay_us / 1e6 <= now

    def _take(self) -> _Batch:
        """Return the next members: as many rows as preferred where there are, at most the maximum."""
        limit = self._rules.max_rows
        preferred = [size for size in self._rules.preferred_rows if size <= self._rows]
        if preferred and self._rows < limit:
            limit = preferred[-1]
        batch, rows = _Batch([]), 0
        for queue in (self._waiting, self._delayed):
            while queue and (not rows or rows + queue[0].rows <= limit):
                member = queue.popleft()
                member.batch = batch
                batch.members.append(member)
                rows += member.rows
            if queue:
                break
        self._rows -= rows
        return batch

    def _set_timer(self, now: float) -> None:
        """Come back when the oldest call has waited for as long as it may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        rules, waits = self._rules, []
        if rules.timeout_us:
            waits.append(rules.timeout_us)
        if rules.max_delay_us and self._running < self._slots:
            waits.append(rules.max_delay_us)
        if waits:
            due = self._waiting[0].queued + min(waits) / 1e6
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self._wake)

    def _send(self, batch: _Batch) -> None:
        self._running += 1
        self.batches += 1
        batch.task = self._start(f"batch of {self._name}", self._answer(batch.members))
        # A task that is cancelled before its first step runs no line of its own, so the slot comes
        # back from outside.
        batch.task.add_done_callback(lambda _: self._ended(batch))

    def _ended(self, batch: _Batch) -> None:
        self._running -= 1
        for member in batch.members:
            if not member.answer.done():
                member.answer.set_exception(
                    errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "the server is stopping")
                )
        self._wake()

    async def _answer(self, members: Sequence[_Member]) -> None:
        members = [each for each in members if not each.answer.done()]
        if len(members) == 1:
            await self._alone(members[0])
        elif members and not await self._together(members):
            middle = len(members) // 2
            await self._answer(members[:middle])
            await self._answer(members[middle:])

    async def _together(self, members: Sequence[_Member]) -> bool:
        """Run a batch; False when it fails in a way in which fewer of its members might not.

        One that breaks it for all is found by halves, in about twice as many runs as its batch can be
        halved, rather than in one for each of its mates.
        """
        names = members[0].feeds
        rows = sum(member.rows for member in members)
        started = self._now()
        try:
            feeds = {name: np.concatenate([each.feeds[name] for each in members]) for name in names}
            ran = await self._run(feeds, rows, _patience(members, started))
        except _OF_THE_SERVER as error:
            # It is about none of them, and asking again for each would make it worse.
            for member in members:
                _refuse(member, version.copied(error))
            return True
        except Exception:  # noqa: BLE001, RUF100 — each member meets what is its own.
            return False
        first = 0
        for member in members:
            _tell(member, ran, started, slice(first, first + member.rows))
            first += member.rows
        return True

    async def _alone(self, member: _Member) -> None:
        started = self._now()
        try:
            ran = await self._run(member.feeds, member.rows, _patience([member], started))
        except Exception as error:  # noqa: BLE001, RUF100 — it goes to the caller as it is.
            _refuse(member, error)
        else:
            _tell(member, ran, started, slice(None))


def _refuse(member: _Member, error: Exception) -> None:
    if not member.answer.done():
        member.answer.set_exception(error)


def _patience(members: Sequence[_Member], now: float) -> float | None:
    """Return the time that the most patient of them has left."""
    longest = 0.0
    for member in members:
        if member.deadline is None:
            return None
        longest = max(longest, member.deadline - now)
    return longest


def _tell(member: _Member, ran: Ran, started: float, rows: slice) -> None:
    if not member.answer.done():
        outputs = [Output(name, dtype, values[rows]) for name, dtype, values in ran.outputs]
        queue_us = int((started - member.queued) * 1e6)
        member.answer.set_result(Joined(outputs, queue_us, ran.run_us))
