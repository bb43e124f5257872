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

from setpoint.feature.v1 import feature_service_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_client import failures, requests, results, retry
from setpoint_client.options import RetryPolicy
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


class _Batch:
    """A frame of values on its way, and the answers to its pieces so far."""

    def __init__(self, number: int, batch_id: str, sizes: Sequence[int]) -> None:
        self.number = number
        self.batch_id = batch_id
        self.sizes = sizes
        self.replies: list[feature_service_pb2.WriteFeaturesResponse] = []


class Writes:
    """The frames of one call that writes, from sending to their whole answer, over any number of streams.

    Pieces are numbered without gaps. Those that have no answer yet are kept, so that another stream can
    begin where the last one broke off; each has its own id, so that none is written twice.
    """

    def __init__(self, view: str, stream_id: str, keep_good_rows: bool) -> None:
        """Begins."""
        self._view = view
        self._stream_id = stream_id
        self._keep_good_rows = keep_good_rows
        # Added to where frames are sent, taken from where answers come: two threads perhaps.
        self._unanswered: dict[int, feature_service_pb2.StreamFeaturesRequest] = {}
        self._open: deque[_Batch] = deque()
        self._frames = 0
        self._sent = 0
        self._answered = 0

    @property
    def first(self) -> int:
        """Number of the first piece without an answer."""
        return self._answered + 1

    @property
    def is_answered(self) -> bool:
        """Whether everything that was sent has its answer."""
        return not self._unanswered

    def piece(self, number: int) -> feature_service_pb2.StreamFeaturesRequest | None:
        """Returns a piece that is still to be answered, None when no frame has been read for it yet."""
        return self._unanswered.get(number)

    def add(self, frame: Any) -> None:
        """Takes in the next frame; its pieces follow those before it."""
        batch_id = requests.batch_id_of(self._stream_id, self._frames)
        made = requests.write_features(self._view, frame, batch_id, self._keep_good_rows)
        self._open.append(_Batch(self._frames, batch_id, [each.rows.rows for each in made]))
        self._frames += 1
        for each in made:
            self._sent += 1
            self._unanswered[self._sent] = feature_service_pb2.StreamFeaturesRequest(
                sequence=self._sent, batch=each
            )

    def take(self, reply: feature_service_pb2.StreamFeaturesResponse) -> results.WriteResult | None:
        """Takes the next answer; returns that of a whole frame once it is there.

        Raises:
            SetpointError: The piece was refused.
        """
        if reply.HasField("failure"):
            raise failures.from_message(reply.failure)
        self._answered = reply.sequence
        self._unanswered.pop(reply.sequence, None)
        first = self._open[0]
        first.replies.append(reply.written)
        if len(first.replies) < len(first.sizes):
            return None
        self._open.popleft()
        return results.write_result(first.replies, first.sizes, first.batch_id)

    def blamed(self, error: errors.SetpointError) -> errors.SetpointError:
        """Returns an error with the number of the frame that it ended at, from 0."""
        number = self._open[0].number if self._open else self._frames
        return type(error)(
            error.reason,
            error.message,
            violations=error.violations,
            metadata={**error.metadata, "frame": str(number), "stream_id": self._stream_id},
            retry_after_seconds=error.retry_after_seconds,
        )


class Patience:
    """Says how long to wait for a service that is away, between two answers of it."""

    def __init__(self, policy: RetryPolicy, seconds: float, draw: Callable[[], float]) -> None:
        """Begins; `seconds` without any answer are borne, and `draw` gives numbers from 0 to 1."""
        self._policy = policy
        self._seconds = seconds
        self._draw = draw
        self._away: retry.Deadline | None = None
        self._attempt = 0

    def answered(self) -> None:
        """Notes an answer."""
        self._away, self._attempt = None, 0

    def pause(self, error: errors.SetpointError, remaining: float) -> float | None:
        """Returns the seconds to wait before another stream is begun, None to give up.

        Args:
            error: What the last one ended with.
            remaining: Seconds until the deadline.
        """
        if not isinstance(error, errors.UnavailableError):
            return None
        self._away = self._away or retry.Deadline(self._seconds)
        self._attempt += 1
        policy = self._policy
        longest = policy.initial_seconds * policy.multiplier ** (self._attempt - 1)
        pause = self._draw() * min(longest, policy.max_seconds)
        return pause if pause < min(remaining, self._away.remaining()) else None
