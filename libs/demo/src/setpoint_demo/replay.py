"""The year in event-time order: features as they become known, questions, outcomes at landing."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import numpy as np
import polars as pl

from setpoint.common.v1 import value_pb2
from setpoint.monitoring.v1 import ingest_service_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_client.stubs import AsyncStubs
from setpoint_columns import Columns, DataType, proto
from setpoint_demo import definitions, feed

MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1) // MICROSECOND

SERVED_VIEWS = ("carrier_lateness", "origin_lateness", "weather", "last_landing")
"""Views that answers depend on: written before the questions of each mark."""

HISTORY_VIEWS = ("scheduled_flight", "landed_flight")
"""Views that only training reads: written once a day, with the times at which rows became known."""

CALLER = "setpoint-demo"
_METADATA = (("x-setpoint-caller", CALLER),)

MAXIMUM_IN_FLIGHT = 64
PREDICT_TIMEOUT_SECONDS = 10.0
SCORE_COLUMN = "probability"


@dataclass(slots=True)
class Answers:
    """What was asked and answered, one entry for each answered prediction, in order of asking."""

    flight: list[int] = field(default_factory=list)
    """Row of the flight in the questions' frame."""
    prediction_id: list[str] = field(default_factory=list)
    version: list[int] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    latency_seconds: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    """Predictions that were not answered, by the error's text."""
    asking_seconds: float = 0.0
    """Time spent between the first question of a mark and its last answer, all marks together."""


def sample(questions: pl.DataFrame, share: float) -> pl.DataFrame:
    """Takes an even share of the questions, in order."""
    position = np.arange(questions.height)
    taken = np.floor((position + 1) * share) > np.floor(position * share)
    return questions.filter(pl.Series(taken))


def request_of(row: dict[str, Any]) -> router_service_pb2.PredictRequest:
    """Makes the question about one flight."""
    text = ("carrier", "origin", "destination")
    inputs = {name: value_pb2.Value(string_value=row[name]) for name in text}
    for name in ("scheduled_hour", "weekday"):
        inputs[name] = value_pb2.Value(int_value=row[name])
    inputs["distance"] = value_pb2.Value(double_value=row["distance"])
    entities = {name: _text_or_null(row[name]) for name in ("carrier", "origin", "tailnum")}
    return router_service_pb2.PredictRequest(
        route=definitions.ROUTE,
        assignment_key=row["flight_id"],
        entities=entities,
        inputs=inputs,
        event_time=row["question"],
    )


def _text_or_null(value: str | None) -> value_pb2.Value:
    if value is None:
        return value_pb2.Value(null_value=value_pb2.NULL_VALUE_UNSPECIFIED)
    return value_pb2.Value(string_value=value)


class Replay:
    """Asks about a frame of flights in event-time order."""

    def __init__(
        self, services: AsyncStubs, frames: dict[str, pl.DataFrame], questions: pl.DataFrame
    ) -> None:
        """Prepares the replay.

        Args:
            services: The running stack.
            frames: The view's streams; what is known before the first mark is written first.
            questions: Flights by question_time, with ``question`` and ``landing`` in microseconds.
        """
        self._services = services
        self._served = feed.Feeds(frames, SERVED_VIEWS)
        self._history = feed.Feeds(frames, HISTORY_VIEWS)
        self._rows = questions.to_dicts()
        self._landings = _Landings()
        self._gate = asyncio.Semaphore(MAXIMUM_IN_FLIGHT)
        self._beside = _Beside()
        self.answers = Answers()
        self.outcomes_delivered = 0
        self.rows_written = 0

    async def run(
        self,
        until: int,
        on_day: Callable[[int], Awaitable[None]],
        on_questions: Callable[[int], None],
    ) -> None:
        """Replays everything up to a time.

        Args:
            until: End of the replay, microseconds UTC.
            on_day: Called at each midnight UTC that passes, with that time.
            on_questions: Called with the number of questions asked at each mark.
        """
        next_day = (self._rows[0]["question"] // DAY + 1) * DAY
        for mark, positions in self._marks(until):
            while mark >= next_day:
                await self._end_day(next_day, on_day)
                next_day += DAY
            # Answers depend on these rows alone; what has landed meanwhile is told beside the questions.
            stored = await self._served.write_until(self._services, mark)
            self.rows_written += stored
            self._beside.start_if_idle("outcomes", partial(self._deliver_outcomes, mark))
            await self._ask(positions)
            on_questions(len(positions))
        while next_day <= until:
            await self._end_day(next_day, on_day)
            next_day += DAY

    def _marks(self, until: int) -> Iterator[tuple[int, range]]:
        """Yields each mark at which something is asked, with the positions of its questions."""
        start = 0
        while start < len(self._rows) and (mark := self._rows[start]["question"]) <= until:
            end = start
            while end < len(self._rows) and self._rows[end]["question"] == mark:
                end += 1
            yield mark, range(start, end)
            start = end

    async def _end_day(self, midnight: int, on_day: Callable[[int], Awaitable[None]]) -> None:
        await self._beside.settle()
        self._beside.start_if_idle("history", partial(self._write_history, midnight))
        await self._deliver_outcomes(midnight)
        await on_day(midnight)

    async def settle(self) -> None:
        """Waits until everything that is known by now is stored; training depends on it.

        Raises:
            AioRpcError: It could not be stored.
        """
        await self._beside.settle()

    async def deliver_rest(self) -> None:
        """Delivers the outcomes of flights that land after the last mark."""
        await self._beside.settle()
        await self._deliver_outcomes(None)

    async def _write_history(self, midnight: int) -> None:
        stored = await self._history.write_until(self._services, midnight)
        self.rows_written += stored

    async def _ask(self, positions: Sequence[int]) -> None:
        if not positions:
            return
        started = time.perf_counter()
        await asyncio.gather(*(self._ask_one(position) for position in positions))
        self.answers.asking_seconds += time.perf_counter() - started

    async def _ask_one(self, position: int) -> None:
        row = self._rows[position]
        request = request_of(row)
        async with self._gate:
            started = time.perf_counter()
            try:
                response = await self._services.router.Predict(
                    request, timeout=PREDICT_TIMEOUT_SECONDS, metadata=_METADATA
                )
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
                self.answers.failures[reason] = self.answers.failures.get(reason, 0) + 1
                return
            latency = time.perf_counter() - started
        self.answers.flight.append(position)
        self.answers.prediction_id.append(response.prediction_id)
        self.answers.version.append(response.assignment.model_version.version)
        self.answers.score.append(response.outputs[SCORE_COLUMN].double_value)
        self.answers.latency_seconds.append(latency)
        if row["landing"] is not None:
            self._landings.add(row["landing"], response.prediction_id, row["late"])

    async def _deliver_outcomes(self, time_limit: int | None) -> None:
        landed = self._landings.take_until(time_limit)
        for start in range(0, len(landed), feed.CHUNK_ROWS):
            chunk = landed[start : start + feed.CHUNK_ROWS]
            times = [landing for landing, _, _ in chunk]
            outcomes = Columns.from_dict(
                {
                    "prediction_id": (DataType.STRING, [each for _, each, _ in chunk]),
                    "label": (DataType.FLOAT64, [float(late) for _, _, late in chunk]),
                    "event_time": (DataType.TIMESTAMP, times),
                    "arrival_time": (DataType.TIMESTAMP, times),
                }
            )
            request = ingest_service_pb2.IngestOutcomesRequest(outcomes=proto.to_proto(outcomes))
            await self._services.ingest.IngestOutcomes(request, timeout=feed.WRITE_TIMEOUT_SECONDS)
            self.outcomes_delivered += len(chunk)


class _Beside:
    """Work that goes on beside the questions, at most one of each kind at a time."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}

    def start_if_idle(self, kind: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts work unless some of its kind goes on. Raises what the last of its kind raised."""
        last = self._running.get(kind)
        if last is not None and not last.done():
            return
        if last is not None:
            last.result()
        self._running[kind] = asyncio.create_task(work(), name=f"replay {kind}")

    async def settle(self) -> None:
        """Waits for all of it. Raises what any of it raised."""
        await asyncio.gather(*self._running.values())
        self._running.clear()


class _Landings:
    """Outcomes that wait for their landing time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, str, bool]] = []

    def add(self, landing: int, prediction_id: str, late: bool) -> None:
        heapq.heappush(self._waiting, (landing, prediction_id, late))

    def take_until(self, time_limit: int | None) -> list[tuple[int, str, bool]]:
        """Takes what has landed at or before a time, or everything, in order of landing."""
        landed = []
        while self._waiting and (time_limit is None or self._waiting[0][0] <= time_limit):
            landed.append(heapq.heappop(self._waiting))
        return landed
