"""A stream of batches: several are on their way at once, and they are stored in the order they came in.

While one batch is stored the next ones are read and prepared. A batch that is wrong in itself is
answered so, and the stream goes on. When a batch cannot be stored for another reason, none after it is,
and the stream ends: its writer begins another with the batches that have no answer, in the same order.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

from setpoint_feature.service import writing
from setpoint_runtime import errors

BATCHES_AT_ONCE: Final = 16
ROWS_AT_ONCE: Final = 100_000
"""Batches of one stream that are in memory have so many rows together, unless a single one has more."""

OWN_FAULTS: Final = (
    errors.InvalidArgumentError,
    errors.NotFoundError,
    errors.AlreadyExistsError,
)
"""What is wrong with one batch alone."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A batch with the number that its answer carries."""

    number: int
    order: writing.Order | errors.SetpointError
    """An error where the batch could not even be read."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.order.rows.rows if isinstance(self.order, writing.Order) else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch."""

    number: int
    result: writing.WriteResult | errors.SetpointError


_Step = asyncio.Task[writing.WriteResult]


class WriteStream:
    """The batches of one stream."""

    def __init__(self, writer: writing.Writer) -> None:
        """Begins."""
        self._writer = writer
        self._failure: BaseException | None = None
        self._batches = 0
        self._rows = 0
        self._room = asyncio.Event()
        self._last = 0

    async def outcomes(self, batches: AsyncIterator[Numbered]) -> AsyncGenerator[Outcome, None]:
        """Yields what becomes of each batch, in order, as soon as it is known.

        Raises:
            SetpointError: A batch cannot be stored now, or numbers do not grow.
        """
        prepared: asyncio.Queue[tuple[Numbered, asyncio.Task[writing.Prepared]] | None]
        prepared = asyncio.Queue()
        stored: asyncio.Queue[tuple[Numbered, _Step] | None] = asyncio.Queue()
        tasks: set[asyncio.Task[object]] = set()
        reading = asyncio.create_task(self._read(batches, prepared, tasks), name="stream-read")
        storing = asyncio.create_task(self._store(prepared, stored, tasks), name="stream-store")
        try:
            while (item := await stored.get()) is not None:
                batch, step = item
                try:
                    yield Outcome(batch.number, await step)
                except OWN_FAULTS as error:
                    yield Outcome(batch.number, error)
                self._leave(batch)
            await reading
        finally:
            for task in (reading, storing, *tasks):
                task.cancel()
            await asyncio.gather(reading, storing, *tasks, return_exceptions=True)

    async def _read(
        self,
        batches: AsyncIterator[Numbered],
        prepared: "asyncio.Queue[tuple[Numbered, asyncio.Task[writing.Prepared]] | None]",
        tasks: set[asyncio.Task[object]],
    ) -> None:
        """Takes batches in as there is room for them; the transport holds back the rest."""
        try:
            async for batch in batches:
                self._check_number(batch.number)
                await self._enter(batch)
                task = asyncio.create_task(self._prepare(batch), name="prepare-batch")
                _keep(tasks, task)
                prepared.put_nowait((batch, task))
        finally:
            prepared.put_nowait(None)

    async def _prepare(self, batch: Numbered) -> writing.Prepared:
        if isinstance(batch.order, errors.SetpointError):
            raise batch.order
        return await self._writer.prepare(batch.order)

    async def _store(
        self,
        prepared: "asyncio.Queue[tuple[Numbered, asyncio.Task[writing.Prepared]] | None]",
        stored: "asyncio.Queue[tuple[Numbered, _Step] | None]",
        tasks: set[asyncio.Task[object]],
    ) -> None:
        """Starts to store each batch once all before it have been started."""
        while (item := await prepared.get()) is not None:
            batch, preparing = item
            await asyncio.wait([preparing])
            task = asyncio.create_task(self._store_one(preparing), name="store-batch")
            _keep(tasks, task)
            stored.put_nowait((batch, task))
        stored.put_nowait(None)

    async def _store_one(self, preparing: "asyncio.Task[writing.Prepared]") -> writing.WriteResult:
        try:
            return await self._writer.store(preparing.result(), self._gate)
        except OWN_FAULTS:
            raise
        except BaseException as error:
            # Set before the next batch gets its turn, which would otherwise overtake this one.
            self._failure = error
            raise

    def _gate(self) -> None:
        if self._failure is not None:
            raise errors.UnavailableError(
                errors.Reason.UNAVAILABLE, "a batch before this one could not be stored"
            )

    def _check_number(self, number: int) -> None:
        if number <= self._last:
            raise errors.invalid("sequence", number, f"must be greater than {self._last}")
        self._last = number

    async def _enter(self, batch: Numbered) -> None:
        rows = batch.rows
        while self._batches >= BATCHES_AT_ONCE or (
            self._batches and self._rows + rows > ROWS_AT_ONCE
        ):
            self._room.clear()
            await self._room.wait()
        self._batches += 1
        self._rows += rows

    def _leave(self, batch: Numbered) -> None:
        self._batches -= 1
        self._rows -= batch.rows
        self._room.set()


def _keep(tasks: set[asyncio.Task[object]], task: asyncio.Task[object]) -> None:
    tasks.add(task)
    task.add_done_callback(tasks.discard)
