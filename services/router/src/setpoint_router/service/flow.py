"""Streams of questions: some are worked on at once, the next one is read when there is room."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from setpoint_runtime import errors

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")


class Flow(Generic[QuestionT, AnswerT]):
    """One stream.

    A question has its room until its answer has been taken: whoever does not take answers is not read
    either, and never are there more than so many in memory.
    """

    def __init__(
        self,
        questions: AsyncIterator[QuestionT],
        answer: Callable[[QuestionT], Awaitable[AnswerT]],
        *,
        at_once: int,
        in_order: bool,
        stopping: asyncio.Event,
    ) -> None:
        """Prepare a stream.

        Args:
            questions: What to answer.
            answer: Answers one of them; an error ends the stream.
            at_once: Questions that are worked on at once.
            in_order: Answer in the order of the questions; else as soon as possible.
            stopping: Set when no more may be read.
        """
        self._questions = questions
        self._answer = answer
        self._in_order = in_order
        self._stopping = stopping
        self._room = asyncio.Semaphore(at_once)
        self._tasks: set[asyncio.Future[AnswerT]] = set()
        self._next: asyncio.Queue[asyncio.Future[AnswerT] | None] = asyncio.Queue()
        self.count = 0
        """Questions read so far."""

    async def answers(self) -> AsyncGenerator[AnswerT, None]:
        """Yield the answers.

        Raises:
            UnavailableError: Reading was ended; everything read before has been answered.
        """
        reader = asyncio.create_task(self._read(), name="read stream")
        stopper = asyncio.create_task(self._stop(reader), name="stop stream")
        is_read = False
        try:
            while not (is_read and not self._tasks):
                task = await self._next.get()
                if task is None:
                    is_read = True
                    continue
                answer = await task
                self._tasks.discard(task)
                yield answer
                self._room.release()
            with suppress(asyncio.CancelledError):
                # Says what was wrong with what was read last.
                await reader
            if reader.cancelled():
                raise errors.UnavailableError(errors.Reason.UNAVAILABLE, "the server is stopping")
        finally:
            left: list[asyncio.Future[Any]] = [reader, stopper, *self._tasks]
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                await self._room.acquire()
                try:
                    question = await anext(self._questions)
                except StopAsyncIteration:
                    return
                self.count += 1
                task = asyncio.ensure_future(self._answer(question))
                self._tasks.add(task)
                if self._in_order:
                    self._next.put_nowait(task)
                else:
                    task.add_done_callback(self._next.put_nowait)
        finally:
            self._next.put_nowait(None)

    async def _stop(self, reader: "asyncio.Task[None]") -> None:
        await self._stopping.wait()
        reader.cancel()
