"""The contract's streams: questions in, answers out, within bounds."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from setpoint.router.v1 import router_service_pb2 as pb
from setpoint_columns import proto as columns_proto
from setpoint_router.convert import failures as failure_messages
from setpoint_router.service import batch_predictor, callers_batch, flow
from setpoint_router.service.predictor import Origin
from setpoint_rpc import failures
from setpoint_runtime import errors

DEFAULT_SECONDS = 2.0
"""Time of a question that says nothing."""

CHUNKS_AT_ONCE = 2
"""One is prepared while the other one is away."""

MAX_CORRELATION_LENGTH = 128

Predict = Callable[[pb.PredictRequest, Origin], Awaitable[pb.PredictResponse]]
MakeOrigin = Callable[[], Origin]


class Streams:
    """Answers streams."""

    def __init__(
        self,
        predict: Predict,
        batches: batch_predictor.BatchPredictor,
        *,
        questions_at_once: int,
        stopping: asyncio.Event,
    ) -> None:
        """Prepare.

        Args:
            predict: Answers one question.
            batches: Answers chunks.
            questions_at_once: Most questions of one stream that are worked on at once.
            stopping: Set when streams shall end.
        """
        self._predict = predict
        self._batches = batches
        self._questions_at_once = questions_at_once
        self._stopping = stopping

    async def answers(
        self, questions: AsyncIterator[pb.PredictStreamRequest], origin: MakeOrigin
    ) -> AsyncGenerator[pb.PredictStreamResponse, None]:
        """Yield the answers to questions, each as soon as it is there."""

        async def answer(question: pb.PredictStreamRequest) -> pb.PredictStreamResponse:
            return await self._answer(question, origin())

        stream = flow.Flow(
            questions,
            answer,
            at_once=self._questions_at_once,
            in_order=False,
            stopping=self._stopping,
        )
        async with aclosing(stream.answers()) as found:
            async for each in found:
                yield each

    async def _answer(
        self, question: pb.PredictStreamRequest, origin: Origin
    ) -> pb.PredictStreamResponse:
        made = pb.PredictStreamResponse(
            correlation_id=question.correlation_id[:MAX_CORRELATION_LENGTH]
        )
        try:
            _check(question)
            seconds = question.timeout_microseconds / 1e6 or DEFAULT_SECONDS
            until = min(origin.deadline, time.monotonic() + seconds)
            origin = dataclasses.replace(origin, deadline=until)
            async with asyncio.timeout(until - time.monotonic()):
                made.answer.CopyFrom(await self._predict(question.request, origin))
        except TimeoutError:
            late = errors.DeadlineExceededError(
                errors.Reason.DEADLINE_EXCEEDED, "the time of the question was over"
            )
            made.failure.CopyFrom(failure_messages.to_proto(late))
        except Exception as error:
            # Whatever it is, it is about this question alone.
            known = failures.typed(error, "RouterService/PredictStream")
            made.failure.CopyFrom(failure_messages.to_proto(known))
        return made

    async def chunks(
        self, chunks: AsyncIterator[pb.PredictBatchStreamRequest], origin: MakeOrigin
    ) -> AsyncGenerator[pb.PredictBatchStreamResponse, None]:
        """Yield the answers to chunks, in order."""
        form: pb.PredictBatchStreamRequest | None = None

        async def answer(chunk: pb.PredictBatchStreamRequest) -> pb.PredictBatchStreamResponse:
            nonlocal form
            number = stream.count - 1
            form = form or pb.PredictBatchStreamRequest(
                route=chunk.route,
                assignment_key_column=chunk.assignment_key_column,
                event_time_column=chunk.event_time_column,
                event_time=chunk.event_time,
            )
            try:
                return await self._answer_chunk(form, chunk, number, origin())
            except errors.SetpointError as error:
                raise _of_chunk(error, number) from error

        stream = flow.Flow(
            chunks, answer, at_once=CHUNKS_AT_ONCE, in_order=True, stopping=self._stopping
        )
        try:
            async with aclosing(stream.answers()) as found:
                async for each in found:
                    yield each
        except errors.SetpointError as error:
            # What could not even be read comes after those that could.
            raise _of_chunk(error, stream.count) from error

    async def _answer_chunk(
        self,
        form: pb.PredictBatchStreamRequest,
        chunk: pb.PredictBatchStreamRequest,
        number: int,
        origin: Origin,
    ) -> pb.PredictBatchStreamResponse:
        ask = callers_batch.BatchAsk(
            route=form.route,
            rows=columns_proto.from_proto(chunk.rows, "rows"),
            assignment_key_column=form.assignment_key_column,
            event_time_column=form.event_time_column,
            event_time=form.event_time,
        )
        # Its stream stands still until there is a place.
        answer = await self._batches.predict(ask, origin, waits=True)
        return pb.PredictBatchStreamResponse(
            chunk=number,
            results=columns_proto.to_proto(answer.results),
            outputs=columns_proto.to_proto(answer.outputs),
            route_revision=answer.route_revision,
        )


def _check(question: pb.PredictStreamRequest) -> None:
    if len(question.correlation_id) > MAX_CORRELATION_LENGTH:
        raise errors.invalid(
            "correlation_id",
            question.correlation_id,
            f"must have at most {MAX_CORRELATION_LENGTH} characters",
            errors.Reason.TOO_LARGE,
        )
    if question.timeout_microseconds < 0:
        raise errors.invalid(
            "timeout_microseconds", question.timeout_microseconds, "must not be negative"
        )


def _of_chunk(error: errors.SetpointError, number: int) -> errors.SetpointError:
    """Return the same error with the number of its chunk."""
    if "chunk" in error.metadata:
        return error
    return type(error)(
        error.reason,
        f"chunk {number}: {error.message}",
        violations=error.violations,
        metadata={**error.metadata, "chunk": str(number)},
        retry_after_seconds=error.retry_after_seconds,
    )
