"""The contract's methods: convert, call, convert."""

import functools
from typing import Any

import grpc.aio
from opentelemetry import trace

import setpoint_telemetry
from setpoint.inference.v1 import inference_service_pb2 as pb
from setpoint.inference.v1 import inference_service_pb2_grpc
from setpoint_inference.convert import batches, messages
from setpoint_inference.domain.version import VersionKey
from setpoint_inference.service.predictions import InferenceService
from setpoint_rpc import context as served
from setpoint_runtime import paging
from setpoint_telemetry import names

_Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Serves `setpoint.inference.v1.InferenceService`."""

    def __init__(self, service: InferenceService) -> None:
        """Serve a service."""
        self._service = service
        self._is_traced = setpoint_telemetry.enabled()

    async def Predict(self, request: pb.PredictRequest, context: _Context) -> pb.PredictResponse:
        """Run a version on a batch."""
        key = messages.key_from_proto(request.model_version)
        inputs = request.inputs
        rows = inputs.rows
        if self._is_traced:
            _annotate(key, rows)
        prediction = await self._service.predict(
            key, rows, functools.partial(batches.pack, inputs), served.remaining_seconds()
        )
        response = pb.PredictResponse(
            model_version=request.model_version,
            queue_microseconds=prediction.queue_us,
            run_microseconds=prediction.run_us,
        )
        batches.fill(response.outputs, rows, prediction.outputs)
        return response

    async def LoadModel(
        self, request: pb.LoadModelRequest, context: _Context
    ) -> pb.LoadModelResponse:
        """Load a version before traffic moves to it."""
        key = messages.key_from_proto(request.model_version)
        lease_seconds = messages.lease_from_proto(request.lease_microseconds, 0)
        model = await self._service.load(key, served.remaining_seconds(), lease_seconds)
        return pb.LoadModelResponse(model=messages.model_to_proto(key, model))

    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, context: _Context
    ) -> pb.RenewLeasesResponse:
        """Keep versions for another while."""
        keys = messages.keys_from_proto(request.model_versions)
        lease_seconds = messages.lease_from_proto(request.lease_microseconds, 1)
        lacking = self._service.models.renew(keys, lease_seconds)
        return pb.RenewLeasesResponse(not_ready=map(messages.key_to_proto, lacking))

    async def UnloadModel(
        self, request: pb.UnloadModelRequest, context: _Context
    ) -> pb.UnloadModelResponse:
        """Drop a version from memory."""
        await self._service.models.unload(messages.key_from_proto(request.model_version))
        return pb.UnloadModelResponse()

    async def ListLoadedModels(
        self, request: pb.ListLoadedModelsRequest, context: _Context
    ) -> pb.ListLoadedModelsResponse:
        """Return a page of versions on this replica."""
        size = paging.size(request.page_size)
        after = paging.decode("ListLoadedModels", (), request.page_token, (str, int))
        rows = [row for row in self._service.models.all() if after is None or row[0] > after]
        page = rows[:size]
        token = paging.encode("ListLoadedModels", (), page[-1][0]) if len(rows) > size else ""
        return pb.ListLoadedModelsResponse(
            models=[messages.model_to_proto(*row) for row in page], next_page_token=token
        )


def _annotate(key: VersionKey, rows: int) -> None:
    trace.get_current_span().set_attributes(
        {names.MODEL: key.model, names.MODEL_VERSION: key.version, names.ROWS: rows}
    )
