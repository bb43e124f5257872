"""The Open Inference Protocol's methods: convert, call, convert."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from random import getrandbits
from typing import Any, NamedTuple

from setpoint_oip import servicer, status
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.servicer import Context
from setpoint_router.convert import oip
from setpoint_router.domain.plan import ServingRoute
from setpoint_router.domain.work import Trace
from setpoint_router.service import batch_predictor, predictor, replays
from setpoint_router.servicer import fingerprint, origin
from setpoint_runtime import errors

FEW_ROWS = 16
"""So many rows go the way of single predictions, in calls that they share with those of others; a
batch is quicker for more of them, and only a few run at once."""


class Readiness(NamedTuple):
    """What is known of it without asking anybody."""

    server: Callable[[], bool]
    """Whether work may be given to this router."""
    version: Callable[[str, int], bool]
    """Whether a replica of inference holds a version of a model and answers."""


class OipServicer(servicer.Servicer):
    """Serves `inference.GRPCInferenceService`; a model is a route."""

    def __init__(
        self,
        routes: Callable[[str], ServingRoute],
        predictions: predictor.Predictor,
        batches: batch_predictor.BatchPredictor,
        replayed: replays.Replays,
        ready: Readiness,
        recorded_headers: frozenset[str] = frozenset(),
    ) -> None:
        """Serve routes.

        Args:
            routes: Returns the current revision of a route by name.
            predictions: Answers single rows.
            batches: Answers several.
            replayed: Remembers requests with an id.
            ready: Says who is ready.
            recorded_headers: Metadata of requests that is kept.
        """
        super().__init__("setpoint-router", ready.server)
        self._ready = ready
        self._routes = routes
        self._predictor = predictions
        self._batches = batches
        self._replays = replayed
        self._recorded_headers = recorded_headers
        self._refusals: dict[errors.SetpointError, errors.SetpointError] = {}

    def turned_away(self, beginning: int = 0) -> errors.SetpointError | None:
        """Return why no request can be taken now, None when one can; always the same few errors."""
        error = self._predictor.turned_away(beginning)
        if error is None:
            return None
        found = self._refusals.get(error)
        if found is None:
            found = self._refusals[error] = status.of_triton(error)
        return found

    @status.with_codes_of_triton
    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Say whether a version of a route, or every one of them, answers now."""
        try:
            route = self._routes(request.name)
            asked = oip.asked_plans(route, request.version)
        except errors.NotFoundError:
            return pb.ModelReadyResponse(ready=False)
        model, is_ready = route.route.content.model, self._ready.version
        needed = [each.version.version for plan in asked for each in plan.members or (plan,)]
        return pb.ModelReadyResponse(
            ready=self._ready.server() and all(is_ready(model, version) for version in needed)
        )

    @status.with_codes_of_triton
    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Describe a route, or one of its versions."""
        return oip.metadata(self._routes(request.name), request.version)

    @status.with_codes_of_triton
    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Answer one prediction, or as many as there are rows."""
        question = oip.Question(request, self._routes(request.model_name))
        call = origin(context, self._recorded_headers, is_batch=True)
        if named := question.request_id or request.id:
            call = call.named(named)
        if not question.request_id:
            return await self._answer(question, call)

        async def work() -> bytes:
            return (await self._answer(question, call)).SerializeToString()

        raw, is_replay = await self._replays.once(
            call.caller, question.request_id, fingerprint(request), work
        )
        response = pb.ModelInferResponse.FromString(raw)
        response.parameters[oip.REPLAYED].bool_param = is_replay
        return response

    async def _answer(
        self, question: oip.Question, call: predictor.Origin
    ) -> pb.ModelInferResponse:
        if not 0 < question.rows <= FEW_ROWS:
            try:
                answer = await self._batches.predict(question.batch(), call)
                return question.reply_of_batch(answer)
            except errors.InvalidArgumentError as error:
                raise oip.about_inputs(error) from error
        # Its rows are answered together or not at all, so they are let in together as well.
        self._predictor.admit(question.route)
        predict = self._predictor.predict
        answers = [predict(each, _below(call), is_admitted=True) for each in question.each()]
        return question.reply_of_each(await _all(answers))


async def _all(answers: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return every answer, once each of them has come or failed; raise the first failure."""
    if len(answers) == 1:
        return [await answers[0]]
    found = await asyncio.gather(*answers, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


def _below(call: predictor.Origin) -> predictor.Origin:
    """Return the origin of a prediction whose span hangs below that of its call."""
    trace = call.trace
    if trace is None:
        return call
    own = Trace(trace.trace_id, getrandbits(64) or 1, trace.span_id, trace.is_sampled)
    return dataclasses.replace(call, trace=own)
