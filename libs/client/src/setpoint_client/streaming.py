"""What both clients share about streams: what is on its way, and when a stream is renewed.

A connection is renewed by the server now and then, and its streams have some time to end. A stream is
therefore ended by the client, after all its answers, well within that time, and another one begun:
nothing is cut off, and nothing has to be asked twice.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic

from setpoint.router.v1 import router_service_pb2
from setpoint_client import requests, results
from setpoint_client.requests import Time
from setpoint_client.results import Frame
from setpoint_runtime import errors

RENEWAL_SECONDS: Final = 10.0
"""A stream takes questions for so long; the server gives streams 20 s on a connection of age."""


class Renewal:
    """Says when a stream shall take no more questions."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins a stream's time."""
        self._clock = clock
        self._until = clock() + RENEWAL_SECONDS

    @property
    def remaining(self) -> float:
        """Seconds until then, at least 0."""
        return max(0.0, self._until - self._clock())

    @property
    def is_due(self) -> bool:
        """Whether the next question goes into the next stream."""
        return self._clock() >= self._until


@dataclass(slots=True)
class Course:
    """How far the source of a stream has been read."""

    is_over: bool = False
    """There is no more."""
    error: BaseException | None = None
    """What reading it, or putting a question into a message, failed with."""

    def end(self, error: BaseException | None = None) -> None:
        """Notes that there is no more, and why."""
        self.is_over, self.error = True, error


def question(
    route: str, asked: results.Question, timeout_each: float
) -> router_service_pb2.PredictStreamRequest:
    """Returns the message for one question."""
    return router_service_pb2.PredictStreamRequest(
        correlation_id=asked.id,
        request=requests.predict(
            asked.route or route,
            asked.entities,
            asked.inputs,
            asked.event_time,
            asked.assignment_key,
            asked.request_id,
        ),
        timeout_microseconds=max(1, round(timeout_each * 1e6)),
    )


class _Sent(Generic[Frame]):
    """A frame on its way, and the answers to its pieces so far."""

    def __init__(self, number: int, frame: Frame, pieces: int) -> None:
        self.number = number
        self.frame = frame
        self.pieces = pieces
        self.replies: list[router_service_pb2.PredictBatchStreamResponse] = []


class Frames(Generic[Frame]):
    """The frames of one call, in order, from sending to their whole answer."""

    def __init__(
        self,
        route: str,
        assignment_key_column: str | None,
        event_time_column: str | None,
        event_time: Time | None,
    ) -> None:
        """Begins; the arguments are those of `predict_batches`."""
        self._form = (route, assignment_key_column, event_time_column, event_time)
        # Appended to where frames are sent, taken from where answers come: two threads perhaps.
        self._open: deque[_Sent[Frame]] = deque()
        self._count = 0

    def send(self, frame: Frame) -> Sequence[router_service_pb2.PredictBatchStreamRequest]:
        """Returns the messages for the pieces of a frame."""
        route, key_column, time_column, event_time = self._form
        pieces = requests.predict_batches(route, frame, key_column, time_column, event_time)
        self._open.append(_Sent(self._count, frame, len(pieces)))
        self._count += 1
        return [
            router_service_pb2.PredictBatchStreamRequest(
                route=each.route,
                assignment_key_column=each.assignment_key_column,
                event_time_column=each.event_time_column,
                event_time=each.event_time,
                rows=each.rows,
            )
            for each in pieces
        ]

    def take(
        self, reply: router_service_pb2.PredictBatchStreamResponse
    ) -> results.BatchPredictions[Frame] | None:
        """Takes the next answer; returns that of a whole frame once it is there."""
        first = self._open[0]
        first.replies.append(reply)
        if len(first.replies) < first.pieces:
            return None
        self._open.popleft()
        return results.batch_predictions(first.replies, first.frame)

    def blamed(self, error: errors.SetpointError) -> errors.SetpointError:
        """Returns an error with the number of the frame that it ended at, from 0."""
        number = self._open[0].number if self._open else self._count
        metadata: dict[str, Any] = {**error.metadata, "frame": str(number)}
        metadata.pop("chunk", None)
        return type(error)(
            error.reason,
            error.message,
            violations=error.violations,
            metadata=metadata,
            retry_after_seconds=error.retry_after_seconds,
        )
