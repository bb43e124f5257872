"""The Open Inference Protocol's methods: convert, call, convert."""

import dataclasses
from collections.abc import Callable
from random import getrandbits

from setpoint_oip import servicer, status
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.servicer import Context
from setpoint_router.convert import oip
from setpoint_router.domain.plan import ServingRoute
from setpoint_router.domain.work import Trace
from setpoint_router.service import batch_predictor, predictor
from setpoint_router.servicer import origin
from setpoint_runtime import errors


class OipServicer(servicer.Servicer):
    """Serves `inference.GRPCInferenceService`; a model is a route."""

    def __init__(
        self,
        routes: Callable[[str], ServingRoute],
        predictions: predictor.Predictor,
        batches: batch_predictor.BatchPredictor,
        is_ready: Callable[[], bool],
    ) -> None:
        """Serve routes.

        Args:
            routes: Returns the current revision of a route by name.
            predictions: Answers single rows.
            batches: Answers several.
            is_ready: Says whether work may be given to the server.
        """
        super().__init__("setpoint-router", is_ready)
        self._routes = routes
        self._predictor = predictions
        self._batches = batches

    @status.with_codes_of_triton
    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Say whether a route, or one of its versions, is in force."""
        try:
            route = self._routes(request.name)
            if request.version:
                oip.version_of(route, request.version)
        except errors.NotFoundError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_ready())

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
        call = origin(context, is_batch=True)
        if question.rows != 1:
            return question.reply_of_many(await self._batches.predict(question.many(), call))
        answer = await self._predictor.predict(question.one(), _below(call))
        return question.reply_of_one(answer)


def _below(call: predictor.Origin) -> predictor.Origin:
    """Return the origin of a prediction whose span hangs below that of its call."""
    trace = call.trace
    if trace is None:
        return call
    own = Trace(trace.trace_id, getrandbits(64) or 1, trace.span_id, trace.is_sampled)
    return dataclasses.replace(call, trace=own)
