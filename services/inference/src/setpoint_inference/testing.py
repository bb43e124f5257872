"""A registry for tests, with everything that can go wrong between it and inference."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import reference_pb2, value_pb2
from setpoint.inference.v1 import inference_service_pb2 as pb
from setpoint.inference.v1 import inference_service_pb2_grpc
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_rpc import channel
from setpoint_runtime import errors

REGISTRY = "setpoint.registry.v1.RegistryService"
_PIECE_BYTES = 64 * 1024

Spec = tuple[str, DataType, Sequence[str]]


@dataclass
class FakeRegistry:
    """Serves versions from memory, and counts what it is asked."""

    versions: dict[tuple[str, int], model_pb2.ModelVersion] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    lookups: int = 0
    downloads: int = 0
    is_down: bool = False
    """Answer UNAVAILABLE."""
    gate: asyncio.Event | None = None
    """Downloads wait for it."""

    def add(
        self,
        model: str,
        version: int,
        data: bytes,
        inputs: Sequence[Spec],
        outputs: Sequence[Spec],
        profiles: Sequence[model_pb2.FeatureProfile] = (),
        missing: Sequence[model_pb2.MissingValue] = (),
        format: model_pb2.ArtifactFormat.ValueType = model_pb2.ARTIFACT_FORMAT_ONNX,
    ) -> model_pb2.ModelVersion:
        """Register a version; `missing` goes to the first input. The message may be changed afterwards."""
        digest = hashlib.sha256(data).hexdigest()
        self.artifacts[digest] = data
        manifest = model_pb2.Manifest(
            artifact_digest=digest,
            artifact_size=len(data),
            format=format,
            inputs=[_tensor(*spec) for spec in inputs],
            outputs=[_tensor(*spec) for spec in outputs],
            reference_profiles=profiles,
        )
        manifest.inputs[0].missing_values.extend(missing)
        message = model_pb2.ModelVersion(
            model=model,
            version=version,
            manifest=manifest,
            approval_state=model_pb2.APPROVAL_STATE_APPROVED,
        )
        self.versions[model, version] = message
        return message

    async def GetModelVersion(
        self, request: registry_service_pb2.GetModelVersionRequest, context: Any
    ) -> registry_service_pb2.GetModelVersionResponse:
        """Return a version."""
        self.lookups += 1
        self._check_up()
        reference = request.model_version
        found = self.versions.get((reference.model, reference.version))
        if found is None:
            raise errors.NotFoundError(
                errors.Reason.MODEL_VERSION_NOT_FOUND, f"no version {reference.version}"
            )
        return registry_service_pb2.GetModelVersionResponse(model_version=found)

    async def DownloadArtifact(
        self, request: registry_service_pb2.DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[registry_service_pb2.DownloadArtifactResponse]:
        """Stream an artifact."""
        self.downloads += 1
        self._check_up()
        if self.gate is not None:
            await self.gate.wait()
        data = self.artifacts.get(request.digest)
        if data is None:
            raise errors.NotFoundError(errors.Reason.ARTIFACT_NOT_FOUND, "no such artifact")
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            yield registry_service_pb2.DownloadArtifactResponse(data=piece)

    def _check_up(self) -> None:
        if self.is_down:
            raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "down")


def add_to_server(fake: FakeRegistry, server: Any) -> None:
    """Register the two methods that inference calls, as generated code registers all."""
    pb2 = registry_service_pb2
    handlers = {
        "GetModelVersion": grpc.unary_unary_rpc_method_handler(
            fake.GetModelVersion,
            request_deserializer=pb2.GetModelVersionRequest.FromString,
            response_serializer=pb2.GetModelVersionResponse.SerializeToString,
        ),
        "DownloadArtifact": grpc.unary_stream_rpc_method_handler(
            fake.DownloadArtifact,
            request_deserializer=pb2.DownloadArtifactRequest.FromString,
            response_serializer=pb2.DownloadArtifactResponse.SerializeToString,
        ),
    }
    server.add_registered_method_handlers(REGISTRY, handlers)


def _tensor(name: str, dtype: DataType, columns: Sequence[str]) -> model_pb2.TensorSpec:
    return model_pb2.TensorSpec(
        name=name, dtype=column_messages.data_type_to_proto(dtype), columns=columns
    )


def substitute(column: str, **value: Any) -> model_pb2.MissingValue:
    """Return a rule for missing values: their substitute by its kind, or none, which refuses them."""
    rule = model_pb2.MissingValue(column=column)
    if value:
        rule.substitute.CopyFrom(value_pb2.Value(**value))
    return rule


def floats(values: Mapping[str, Sequence[float] | np.ndarray[Any, Any]]) -> Columns:
    """Return float64 columns."""
    made = [Column.from_numpy(name, np.asarray(each, float)) for name, each in values.items()]
    return Columns(made[0].rows, made)


def predict_request(model: str, version: int, columns: Columns) -> pb.PredictRequest:
    """Return a request for rows."""
    return pb.PredictRequest(
        model_version=reference_pb2.ModelVersionReference(model=model, version=version),
        inputs=column_messages.to_proto(columns),
    )


def answered(response: pb.PredictResponse) -> Columns:
    """Return the columns of an answer."""
    return column_messages.from_proto(response.outputs)


async def refused(call: Awaitable[object]) -> errors.SetpointError:
    """Await a call that fails; return its typed error."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return channel.from_rpc_error(error)
    raise AssertionError("the call was answered")


@dataclass
class Inference:
    """A served inference with its registry, and what a test needs to call them."""

    stub: "inference_service_pb2_grpc.InferenceServiceAsyncStub"
    registry: FakeRegistry
    channel: grpc.aio.Channel
    address: str = ""
    taken: Callable[[], float | None] = lambda: None
    """How many calls run or wait for a thread."""

    async def until_taken(self, count: int) -> None:
        """Wait until so many calls run or wait for a thread."""
        async with asyncio.timeout(30):
            while self.taken() != count:
                await asyncio.sleep(0.005)

    async def predict(
        self, model: str, version: int, columns: Columns, timeout: float = 10.0
    ) -> Columns:
        """Call Predict and return the output columns."""
        request = predict_request(model, version, columns)
        return answered(await self.stub.Predict(request, timeout=timeout))

    async def load(self, model: str, version: int, lease_seconds: float = 0.0) -> pb.LoadedModel:
        """Call LoadModel."""
        reference = reference_pb2.ModelVersionReference(model=model, version=version)
        lease = round(lease_seconds * 1e6)
        request = pb.LoadModelRequest(model_version=reference, lease_microseconds=lease)
        return (await self.stub.LoadModel(request, timeout=30)).model

    async def renew(
        self, versions: Sequence[tuple[str, int]], lease_seconds: float
    ) -> list[tuple[str, int]]:
        """Call RenewLeases and return what is not ready."""
        made = reference_pb2.ModelVersionReference
        request = pb.RenewLeasesRequest(
            model_versions=[made(model=model, version=version) for model, version in versions],
            lease_microseconds=round(lease_seconds * 1e6),
        )
        answer = await self.stub.RenewLeases(request, timeout=30)
        return [(each.model, each.version) for each in answer.not_ready]

    async def unload(self, model: str, version: int) -> None:
        """Call UnloadModel."""
        reference = reference_pb2.ModelVersionReference(model=model, version=version)
        await self.stub.UnloadModel(pb.UnloadModelRequest(model_version=reference), timeout=30)

    async def listed(self) -> list[pb.LoadedModel]:
        """Call ListLoadedModels."""
        answer = await self.stub.ListLoadedModels(pb.ListLoadedModelsRequest())
        return list(answer.models)


def stub_of(opened: grpc.aio.Channel) -> "inference_service_pb2_grpc.InferenceServiceAsyncStub":
    """Return the stub of a channel."""
    return inference_service_pb2_grpc.InferenceServiceStub(opened)
