"""The contract's methods: convert, call, convert."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from random import getrandbits
from typing import Any

import grpc.aio
from google.protobuf.message import Message
from opentelemetry import trace as telemetry_trace

import setpoint_telemetry
from setpoint.router.v1 import router_service_pb2, router_service_pb2_grpc
from setpoint_columns import proto as columns_proto
from setpoint_db import idempotency
from setpoint_router import streams
from setpoint_router.convert import routes
from setpoint_router.domain.work import CallersOwn, Trace
from setpoint_router.service import (
    batch_predictor,
    callers_batch,
    predictor,
    replays,
    route_service,
)
from setpoint_rpc import context
from setpoint_runtime import paging

Context = grpc.aio.ServicerContext[Any, Any]
DEFAULT_SECONDS = 30.0

MAX_HEADER_LENGTH = 256
"""Characters of a value that is kept."""


class RouterServicer(router_service_pb2_grpc.RouterServiceServicer):
    """Serves `setpoint.router.v1.RouterService`."""

    def __init__(
        self,
        predictions: predictor.Predictor,
        batches: batch_predictor.BatchPredictor,
        kept_routes: route_service.RouteService,
        replayed: replays.Replays,
        *,
        questions_at_once: int,
        stopping: asyncio.Event,
        recorded_headers: frozenset[str] = frozenset(),
    ) -> None:
        self._recorded_headers = recorded_headers
        self._predictor = predictions
        self._replays = replayed
        self._streams = streams.Streams(
            self._predict, batches, questions_at_once=questions_at_once, stopping=stopping
        )
        self._batches = batches
        self._routes = kept_routes
        self.turned_away = predictions.turned_away

    async def Predict(
        self, request: router_service_pb2.PredictRequest, context: Context
    ) -> router_service_pb2.PredictResponse:
        """Answer one prediction."""
        return await self._predict(request, self._origin(context))

    def _origin(self, context: Context, *, is_batch: bool = False) -> predictor.Origin:
        return origin(context, self._recorded_headers, is_batch=is_batch)

    async def _predict(
        self, request: router_service_pb2.PredictRequest, asked_by: predictor.Origin
    ) -> router_service_pb2.PredictResponse:
        answer: router_service_pb2.PredictResponse
        if not request.request_id:
            answer = await self._predictor.predict(request, asked_by)
            return answer
        asked_by = asked_by.named(request.request_id)

        async def work() -> bytes:
            found = await self._predictor.predict(request, asked_by)
            serialised: bytes = found.SerializeToString()
            return serialised

        raw, is_replay = await self._replays.once(
            asked_by.caller, request.request_id, fingerprint(request), work
        )
        answer = router_service_pb2.PredictResponse.FromString(raw)
        answer.replayed = is_replay
        return answer

    async def PredictStream(
        self,
        request_iterator: AsyncIterator[router_service_pb2.PredictStreamRequest],
        context: Context,
    ) -> AsyncIterator[router_service_pb2.PredictStreamResponse]:
        """Answer predictions as they come."""
        answers = self._streams.answers(request_iterator, lambda: self._origin(context))
        async with aclosing(answers):
            async for each in answers:
                yield each

    async def PredictBatchStream(
        self,
        request_iterator: AsyncIterator[router_service_pb2.PredictBatchStreamRequest],
        context: Context,
    ) -> AsyncIterator[router_service_pb2.PredictBatchStreamResponse]:
        """Answer chunks of predictions, in order."""
        answers = self._streams.chunks(
            request_iterator, lambda: self._origin(context, is_batch=True)
        )
        async with aclosing(answers):
            async for each in answers:
                yield each

    async def PredictBatch(
        self, request: router_service_pb2.PredictBatchRequest, context: Context
    ) -> router_service_pb2.PredictBatchResponse:
        """Answer many predictions."""
        asked_by = self._origin(context, is_batch=True)
        if not request.request_id:
            return await self._predict_batch(request, asked_by)
        asked_by = asked_by.named(request.request_id)

        async def work() -> bytes:
            return (await self._predict_batch(request, asked_by)).SerializeToString()

        raw, is_replay = await self._replays.once(
            asked_by.caller, request.request_id, fingerprint(request), work
        )
        answer = router_service_pb2.PredictBatchResponse.FromString(raw)
        answer.replayed = is_replay
        return answer

    async def _predict_batch(
        self, request: router_service_pb2.PredictBatchRequest, asked_by: predictor.Origin
    ) -> router_service_pb2.PredictBatchResponse:
        answer = await self._batches.predict(
            callers_batch.BatchAsk(
                route=request.route,
                rows=columns_proto.from_proto(request.rows, "rows"),
                assignment_key_column=request.assignment_key_column,
                event_time_column=request.event_time_column,
                event_time=request.event_time,
            ),
            asked_by,
        )
        return router_service_pb2.PredictBatchResponse(
            results=columns_proto.to_proto(answer.results),
            outputs=columns_proto.to_proto(answer.outputs),
            route_revision=answer.route_revision,
        )

    async def ExplainAssignment(
        self, request: router_service_pb2.ExplainAssignmentRequest, context: Context
    ) -> router_service_pb2.ExplainAssignmentResponse:
        """Say which version a key gets and why."""
        found = await self._routes.explain(request.route, request.assignment_key, request.time)
        layer = found.route.content.layer
        return router_service_pb2.ExplainAssignmentResponse(
            assignment=routes.assignment_to_proto(
                found.route, found.version, found.slot, found.reason
            ),
            salt=found.route.content.salt,
            valid_from=found.route.valid_from,
            explanation=found.text,
            shadows=[
                routes.choice_to_proto(each)
                for each in found.route.shadows_of(request.assignment_key)
            ],
            layer_slot=None if layer is None else layer.slot_of(request.assignment_key),
        )

    async def PreviewSplit(
        self, request: router_service_pb2.PreviewSplitRequest, context: Context
    ) -> router_service_pb2.PreviewSplitResponse:
        """Say who would move."""
        content = routes.content_from_proto(request.route)
        found = await self._routes.preview(content, request.assignment_keys)
        return routes.preview_to_proto(found.before, found.after, found.moved_keys)

    async def CreateRoute(
        self, request: router_service_pb2.CreateRouteRequest, context: Context
    ) -> router_service_pb2.CreateRouteResponse:
        """Create a route."""
        stored = await self._routes.create(
            request.request_id,
            idempotency.fingerprint(request.route.SerializeToString(deterministic=True)),
            routes.content_from_proto(request.route),
        )
        return router_service_pb2.CreateRouteResponse(
            route=routes.route_to_proto(stored.route), replayed=stored.is_replay
        )

    async def UpdateRoute(
        self, request: router_service_pb2.UpdateRouteRequest, context: Context
    ) -> router_service_pb2.UpdateRouteResponse:
        """Make a new revision of a route."""
        stored = await self._routes.update(
            request.request_id,
            idempotency.fingerprint(
                request.route.SerializeToString(deterministic=True), str(request.expected_revision)
            ),
            routes.content_from_proto(request.route),
            request.expected_revision,
        )
        return router_service_pb2.UpdateRouteResponse(
            route=routes.route_to_proto(stored.route), replayed=stored.is_replay
        )

    async def GetRoute(
        self, request: router_service_pb2.GetRouteRequest, context: Context
    ) -> router_service_pb2.GetRouteResponse:
        """Read a revision."""
        found = await self._routes.get(request.name, request.revision)
        return router_service_pb2.GetRouteResponse(route=routes.route_to_proto(found))

    async def ListRoutes(
        self, request: router_service_pb2.ListRoutesRequest, context: Context
    ) -> router_service_pb2.ListRoutesResponse:
        """List current revisions by name."""
        size = paging.size(request.page_size)
        after = paging.decode("ListRoutes", (), request.page_token, (str,))
        found = await self._routes.list(str(after[0]) if after else "", size)
        token = ""
        if len(found) > size:
            token = paging.encode("ListRoutes", (), (found[size - 1].name,))
        return router_service_pb2.ListRoutesResponse(
            routes=[routes.route_to_proto(each) for each in found[:size]], next_page_token=token
        )

    async def ListRouteRevisions(
        self, request: router_service_pb2.ListRouteRevisionsRequest, context: Context
    ) -> router_service_pb2.ListRouteRevisionsResponse:
        """List the revisions of a route, newest first."""
        method, asked, size = "ListRouteRevisions", (request.name,), paging.size(request.page_size)
        before = paging.decode(method, asked, request.page_token, (int,))
        found = await self._routes.list_revisions(
            request.name, int(before[0]) if before else 0, size
        )
        token = (
            paging.encode(method, asked, (found[size - 1].revision,)) if len(found) > size else ""
        )
        return router_service_pb2.ListRouteRevisionsResponse(
            routes=[routes.route_to_proto(each) for each in found[:size]], next_page_token=token
        )


def fingerprint(request: Message) -> bytes:
    """Returns what tells a request from every other one."""
    content = request.SerializeToString(deterministic=True)
    return idempotency.fingerprint(request.DESCRIPTOR.full_name, content)


def origin(
    servicer_context: Context, recorded_headers: frozenset[str], *, is_batch: bool = False
) -> predictor.Origin:
    """Returns where a call comes from: its caller, its trace, its deadline, and what is to be kept.

    A batch is one span, which the server has made; single predictions get theirs afterwards.
    """
    caller, header, own = "", None, None
    for name, value in servicer_context.invocation_metadata() or ():
        if name == context.CALLER_KEY:
            caller = str(value)[:64]
        elif name == context.TRACEPARENT_KEY:
            header = str(value)
        if name in recorded_headers:
            kept = (name, str(value)[:MAX_HEADER_LENGTH])
            own = CallersOwn("", (kept,) if own is None else (*own.headers, kept))
    remaining = servicer_context.time_remaining()
    deadline = time.monotonic() + (DEFAULT_SECONDS if remaining is None else remaining)
    trace = _trace_of_call() if is_batch else _trace(header)
    return predictor.Origin(caller, trace, deadline, own)


def _trace(header: str | None) -> Trace | None:
    """Returns the prediction's place in a trace, its caller's where there is one."""
    if header is not None and context.traceparent() == header:
        _, trace_id, span_id, flags = header.split("-")
        is_sampled = bool(int(flags, 16) & 1) and setpoint_telemetry.enabled()
        return Trace(int(trace_id, 16), getrandbits(64) or 1, int(span_id, 16), is_sampled)
    if not setpoint_telemetry.enabled():
        return None
    return Trace(getrandbits(128) or 1, getrandbits(64) or 1, 0, True)


def _trace_of_call() -> Trace | None:
    current = telemetry_trace.get_current_span().get_span_context()
    if not current.is_valid:
        return None
    is_sampled = current.trace_flags.sampled and setpoint_telemetry.enabled()
    return Trace(current.trace_id, current.span_id, 0, is_sampled)
