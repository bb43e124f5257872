"""The client for programs without an event loop."""

import os
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, TypeVar, Unpack

import grpc

from setpoint.feature.v1 import feature_service_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_client import (
    calls,
    failures,
    feature_parts,
    options,
    requests,
    results,
    retry,
    streaming,
)
from setpoint_client.requests import Time
from setpoint_client.results import Frame
from setpoint_client.stubs import Stubs
from setpoint_runtime import errors

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_Given = TypeVar("_Given")


class Client:
    """Setpoint for programs without an event loop.

    One client may be used by any number of threads, and should be: it keeps one connection to each
    service. It does not survive `fork`: make it in the child (with multiprocessing, in an initializer, or
    use the spawn method); a client of the parent refuses to work there.

    Every method raises the typed errors of `setpoint_client.errors`, with the server's reason; `timeout` is
    in seconds and covers all attempts and all pieces of a large frame.

    Example:
        ```python
        with Client(router_address="127.0.0.1:7400") as client:
            answer = client.predict("flight-delays", entities={"carrier": "UA"})
        ```
    """

    def __init__(self, **settings: Unpack[options.ClientSettings]) -> None:
        """Prepares a client; it connects when it is first used.

        Args:
            settings: See `ClientSettings`; by default the services of a stack on this machine.
        """
        self._options = options.ClientOptions(**settings)
        self._retrier = retry.Retrier(self._options.retry)
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False
        self.stubs = Stubs(self._channel)

    def predict(
        self,
        route: str,
        *,
        entities: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        event_time: Time | None = None,
        assignment_key: str | None = None,
        request_id: str | None = None,
        timeout: float = calls.PREDICT_SECONDS,
    ) -> results.Prediction:
        """Answers one question; never repeated by itself, since each call is one recorded prediction.

        With a `request_id` it is repeated while the router is unavailable, and may be by you: the same
        router answers a repetition within its window with the first answer.

        Args:
            route: Name of the route.
            entities: Entity keys by name; the features are then fetched. None: `inputs` has them all.
            inputs: Inputs that the caller gives, by name; None as a value is a null.
            event_time: When the question is asked; by default now.
            assignment_key: What the version is assigned by; by default the entity keys.
            request_id: A UUID of yours for this question.
            timeout: Seconds.
        """
        request = requests.predict(route, entities, inputs, event_time, assignment_key, request_id)
        deadline = retry.Deadline(timeout)
        repeat = request_id is not None
        reply = self._call(self.stubs.router.Predict, request, deadline, repeat=repeat)
        return results.prediction(reply)

    def predict_batch(
        self,
        route: str,
        rows: Frame,
        *,
        assignment_key_column: str | None = None,
        event_time_column: str | None = None,
        event_time: Time | None = None,
        timeout: float = calls.BATCH_SECONDS,
    ) -> results.BatchPredictions[Frame]:
        """Answers many questions; a bad row fails alone. Frames of any size are sent in pieces.

        Args:
            route: Name of the route.
            rows: pandas, polars, Arrow, Columns or a list of mappings: entity keys and request fields, or
                every input of the model.
            assignment_key_column: Column that versions are assigned by.
            event_time_column: Column that says when each question is asked.
            event_time: When all questions are asked, where there is no such column; by default now.
            timeout: Seconds for all pieces together.
        """
        pieces = requests.predict_batches(
            route, rows, assignment_key_column, event_time_column, event_time
        )
        deadline = retry.Deadline(timeout)
        method = self.stubs.router.PredictBatch
        replies = [self._call(method, piece, deadline, repeat=False) for piece in pieces]
        return results.batch_predictions(replies, rows)

    def predict_stream(
        self,
        route: str,
        questions: Iterable[results.Question],
        *,
        timeout_each: float = calls.PREDICT_SECONDS,
        timeout: float = calls.STREAM_SECONDS,
    ) -> Iterator[results.Answer]:
        """Answers questions one by one on one call, each as soon as it is there, in any order.

        Questions are read from `questions` as the router has room for them, in another thread or task. What fails
        is the answer to its question; only a failure of the call itself is raised. Predictions are never
        repeated: after such a failure questions without an answer may or may not have been predicted.

        Args:
            route: Name of the route.
            questions: What to ask.
            timeout_each: Seconds for each question.
            timeout: Seconds for all of them.
        """
        deadline, course = retry.Deadline(timeout), streaming.Course()
        source = iter(questions)

        def message(asked: results.Question) -> list[router_service_pb2.PredictStreamRequest]:
            return [streaming.question(route, asked, timeout_each)]

        while not course.is_over:
            sent = _sent(source, message, course)
            for reply in self._stream(self.stubs.router.PredictStream, sent, deadline):
                yield results.answer(reply)
        if course.error is not None:
            raise course.error

    def predict_batches(
        self,
        route: str,
        rows: Iterable[Frame],
        *,
        assignment_key_column: str | None = None,
        event_time_column: str | None = None,
        event_time: Time | None = None,
        timeout: float = calls.STREAM_SECONDS,
    ) -> Iterator[results.BatchPredictions[Frame]]:
        """Answers frames of questions, one after the other, however many there are; a bad row fails alone.

        Frames are read from `rows` as the router has room for them, in another thread or task, and never
        are more than a few in memory. What fails as a whole ends the iteration: the error's metadata has
        the number of its frame as "frame", from 0, and all frames before it have been answered.

        Args:
            route: Name of the route.
            rows: Frames as `predict_batch` takes them.
            assignment_key_column: Column that versions are assigned by.
            event_time_column: Column that says when each question is asked.
            event_time: When all questions are asked, where there is no such column; by default now.
            timeout: Seconds for all of them.
        """
        deadline, course = retry.Deadline(timeout), streaming.Course()
        source = iter(rows)
        kept = streaming.Frames[Frame](route, assignment_key_column, event_time_column, event_time)
        while not course.is_over:
            sent = _sent(source, kept.send, course)
            try:
                for reply in self._stream(self.stubs.router.PredictBatchStream, sent, deadline):
                    answered = kept.take(reply)
                    if answered is not None:
                        yield answered
            except errors.SetpointError as error:
                raise kept.blamed(error) from error
        if course.error is not None:
            raise course.error

    def explain_assignment(
        self,
        route: str,
        assignment_key: str,
        *,
        time: Time | None = None,
        timeout: float = calls.CONTROL_SECONDS,
    ) -> results.Assignment:
        """Says which version a key gets and why, now or at a past time, without predicting."""
        request = router_service_pb2.ExplainAssignmentRequest(
            route=route,
            assignment_key=assignment_key,
            time=requests.microseconds("time", time),
        )
        method = self.stubs.router.ExplainAssignment
        reply = self._call(method, request, retry.Deadline(timeout), repeat=True)
        return results.assignment(reply.assignment, reply.explanation)

    def write_features(
        self,
        view: str,
        rows: Any,
        *,
        batch_id: str | None = None,
        keep_good_rows: bool = False,
        timeout: float = calls.BATCH_SECONDS,
    ) -> results.WriteResult:
        """Writes rows of one view; durable on return. Frames of any size are sent in pieces.

        Args:
            view: Name of the view.
            rows: Any kind of frame with the key columns, `event_time`, optionally `created_time`, and the
                fields.
            batch_id: A UUID; the same rows under the same id are written once. By default a new one.
            keep_good_rows: Write the good rows where others are bad, and say which ones are. By default a bad
                row refuses the frame, or the piece that it is in.
            timeout: Seconds for all pieces together.
        """
        batch_id = batch_id or requests.new_batch_id()
        pieces = requests.write_features(view, rows, batch_id, keep_good_rows)
        deadline = retry.Deadline(timeout)
        method = self.stubs.feature.WriteFeatures
        replies = [self._call(method, piece, deadline, repeat=True) for piece in pieces]
        return results.write_result(replies, [piece.rows.rows for piece in pieces], batch_id)

    def stream_features(
        self,
        view: str,
        frames: Iterable[Any],
        *,
        stream_id: str | None = None,
        keep_good_rows: bool = False,
        patience: float = calls.PATIENCE_SECONDS,
        timeout: float = calls.STREAM_SECONDS,
    ) -> Iterator[results.WriteResult]:
        """Writes frames of one view, one after the other, however many there are; gives one result for each.

        Frames are read from `frames` as the service has room for them, in another thread or task, and never are
        more than a few in memory. While the service is away the stream is begun again with the frames that have no
        answer, under the same ids, so that each is written once. What refuses a frame ends the iteration:
        the error's metadata has the number of its frame as "frame", from 0, and the stream's id. All frames
        before it are durable; of those after it some may be, and the same frames under the same id are written
        once.

        Args:
            view: Name of the view.
            frames: Frames as `write_features` takes them; some thousand rows each are the quickest.
            stream_id: A UUID that the ids of all frames follow from. By default a new one.
            keep_good_rows: As in `write_features`.
            patience: Seconds for which the service may be away, from one answer to the next.
            timeout: Seconds for all of it.
        """
        deadline, course = retry.Deadline(timeout), streaming.Course()
        waits = streaming.Patience(self._options.retry, patience, random.random)
        kept = streaming.Writes(view, stream_id or requests.new_batch_id(), keep_good_rows)
        source, reading = iter(frames), threading.Lock()
        method = self.stubs.feature.StreamFeatures
        while not (course.is_over and kept.is_answered):
            try:
                sent = _written(source, reading, kept, course)
                with closing(self._stream(method, sent, deadline)) as replies:
                    for reply in replies:
                        waits.answered()
                        written = kept.take(reply)
                        if written is not None:
                            yield written
            except errors.SetpointError as error:
                pause = waits.pause(error, deadline.remaining())
                if pause is None:
                    raise kept.blamed(error) from error
                time.sleep(pause)
        if course.error is not None:
            raise course.error

    def get_online_features(
        self,
        feature_set: str,
        entities: Frame,
        *,
        version: str = "",
        as_of: Time | Sequence[Time] | None = None,
        timeout: float = calls.PREDICT_SECONDS,
    ) -> results.FeatureValues[Frame]:
        """Reads the features of entities as the online store knows them now, rows as given.

        Args:
            feature_set: Name of the feature set.
            entities: Any kind of frame with the key columns of the set, and the request fields that its
                transformations read.
            version: Exact version; by default the latest.
            as_of: When staleness is judged, one time or one for each row; by default now.
            timeout: Seconds.
        """
        pieces = requests.online_features(feature_set, version, entities, as_of)
        deadline = retry.Deadline(timeout)
        method = self.stubs.feature.GetOnlineFeatures
        replies = [self._call(method, piece, deadline, repeat=True) for piece in pieces]
        return results.feature_values([feature_parts.part(reply) for reply in replies], entities)

    def get_historical_features(
        self,
        feature_set: str,
        spine: Frame,
        *,
        version: str = "",
        time_column: str = "event_time",
        as_of_event_time: bool = False,
        timeout: float = calls.HISTORY_SECONDS,
    ) -> results.FeatureValues[Frame]:
        """Joins the features as they were known at each row's time.

        The result's `frame` is the spine with the features beside its columns, rows and order kept. Only
        keys, times and the request fields that transformations read are sent, so the spine's other columns
        may have any type.

        Args:
            feature_set: Name of the feature set.
            spine: Any kind of frame with the key columns, the request fields that transformations read, and a
                time with a zone for each row.
            version: Exact version; by default the latest.
            time_column: Name of the time column.
            as_of_event_time: Also use values that arrived after the row's time. Leaks the future.
            timeout: Seconds for the whole join.
        """
        deadline = retry.Deadline(timeout)
        asked = requests.feature_set(feature_set, version)
        found = self._call(self.stubs.feature.GetFeatureSet, asked, deadline, repeat=True)
        stream = requests.historical_features(found, spine, time_column, as_of_event_time)
        parts = [feature_parts.part(reply) for reply in self._historical(stream, deadline)]
        return results.feature_values(parts, spine, attached=True)

    def record_outcomes(
        self, outcomes: Any, *, timeout: float = calls.BATCH_SECONDS
    ) -> results.IngestResult:
        """Records what really happened; the same outcome again changes nothing.

        Args:
            outcomes: Any kind of frame with `prediction_id`, `label`, `event_time` and optionally
                `arrival_time`.
            timeout: Seconds for all pieces together.
        """
        deadline = retry.Deadline(timeout)
        method = self.stubs.ingest.IngestOutcomes
        replies = [
            self._call(method, piece, deadline, repeat=True)
            for piece in requests.outcomes(outcomes)
        ]
        return results.IngestResult(
            sum(reply.stored for reply in replies), sum(reply.duplicates for reply in replies)
        )

    def record_outcome(
        self,
        prediction_id: str,
        label: float,
        event_time: Time,
        *,
        arrival_time: Time | None = None,
        timeout: float = calls.CONTROL_SECONDS,
    ) -> results.IngestResult:
        """Records what really happened to one prediction."""
        table = requests.single_outcome(prediction_id, label, event_time, arrival_time)
        return self.record_outcomes(table, timeout=timeout)

    def get_prediction(
        self, prediction_id: str, *, timeout: float = calls.CONTROL_SECONDS
    ) -> results.PredictionStory:
        """Reads the whole story of one prediction: inputs and where they came from, version, outcome."""
        request = monitoring_service_pb2.GetPredictionRequest(prediction_id=prediction_id)
        method = self.stubs.monitoring.GetPrediction
        reply = self._call(method, request, retry.Deadline(timeout), repeat=True)
        return results.story(reply.prediction)

    def close(self) -> None:
        """Closes all connections; calls in flight fail. A closed client cannot be used again."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
            self._channels.clear()
        if os.getpid() == self._process:
            for channel in channels:
                channel.close()

    def __enter__(self) -> "Client":
        """Returns the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes all connections."""
        self.close()

    def _channel(self, service: str) -> grpc.Channel:
        self._check_usable()
        address = self._options.address(service)
        with self._lock:
            if address not in self._channels:
                arguments = options.channel_arguments(self._options)
                credentials = self._options.credentials
                self._channels[address] = (
                    grpc.insecure_channel(address, arguments)
                    if credentials is None
                    else grpc.secure_channel(address, credentials, arguments)
                )
            return self._channels[address]

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
        if os.getpid() != self._process:
            raise RuntimeError("the client was made before fork; make one in this process")

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Reply]",
        request: _Request,
        deadline: retry.Deadline,
        *,
        repeat: bool,
    ) -> _Reply:
        self._check_usable()
        attempt = 1
        while True:
            try:
                reply = method(
                    request,
                    timeout=deadline.remaining(),
                    metadata=calls.metadata(self._options.caller),
                )
            except grpc.RpcError as error:
                known = failures.typed_error(error)
                pause = None
                if repeat:
                    pause = self._retrier.pause(error, known, attempt, deadline.remaining())
                if pause is None:
                    raise known from error
            else:
                self._retrier.succeeded()
                return reply
            attempt += 1
            time.sleep(pause)

    def _stream(
        self,
        method: "grpc.StreamStreamMultiCallable[_Request, _Reply]",
        sent: Iterator[_Request],
        deadline: retry.Deadline,
    ) -> Generator[_Reply, None, None]:
        self._check_usable()
        call = method(
            sent, timeout=deadline.remaining(), metadata=calls.metadata(self._options.caller)
        )
        try:
            yield from call
        except grpc.RpcError as error:
            raise failures.typed_error(error) from error
        finally:
            # Whoever stops taking answers ends the call.
            call.cancel()

    def _historical(
        self,
        stream: list[feature_service_pb2.GetHistoricalFeaturesRequest],
        deadline: retry.Deadline,
    ) -> Iterator[feature_service_pb2.GetHistoricalFeaturesResponse]:
        self._check_usable()
        try:
            yield from self.stubs.feature.GetHistoricalFeatures(
                iter(stream),
                timeout=deadline.remaining(),
                metadata=calls.metadata(self._options.caller),
            )
        except grpc.RpcError as error:
            raise failures.typed_error(error) from error


def _sent(
    source: Iterator[_Given],
    messages: Callable[[_Given], Sequence[_Request]],
    course: streaming.Course,
) -> Iterator[_Request]:
    """Yields the messages of one stream, until it is to be renewed or there are no more."""
    renewal = streaming.Renewal()
    while not renewal.is_due:
        try:
            made = messages(next(source))
        except StopIteration:
            course.end()
            return
        except Exception as error:
            # gRPC would log it and tell nobody; it is raised once all answers are there.
            course.end(error)
            return
        yield from made


def _written(
    source: Iterator[Any],
    reading: threading.Lock,
    kept: streaming.Writes,
    course: streaming.Course,
) -> Iterator[feature_service_pb2.StreamFeaturesRequest]:
    """Yields the pieces of one stream: those without an answer first, then those of new frames."""
    renewal = streaming.Renewal()
    number = kept.first
    while True:
        piece = kept.piece(number)
        if piece is not None:
            yield piece
            number += 1
            continue
        # A stream that broke off may still be reading a frame; it is kept for this one.
        with reading:
            if kept.piece(number) is None:
                if course.is_over or renewal.is_due:
                    return
                try:
                    kept.add(next(source))
                except StopIteration:
                    course.end()
                except Exception as error:
                    # As in `_sent`.
                    course.end(error)
