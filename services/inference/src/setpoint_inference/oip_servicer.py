"""The Open Inference Protocol's methods: convert, call, convert."""

from collections.abc import Callable

from setpoint_inference.convert import oip
from setpoint_inference.domain.version import VersionKey
from setpoint_inference.service.models import ReadyModel
from setpoint_inference.service.predictions import InferenceService
from setpoint_oip import servicer, status
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.servicer import Context
from setpoint_rpc import context as served
from setpoint_runtime import errors


class OipServicer(servicer.Servicer):
    """Serves `inference.GRPCInferenceService`; a model is a model of the registry."""

    def __init__(self, service: InferenceService, is_ready: Callable[[], bool]) -> None:
        """Serve a service; `is_ready` says whether work may be given to the server."""
        super().__init__("setpoint-inference", is_ready, ["model_repository"])
        self._service = service
        self._models = service.models

    @status.with_codes_of_triton
    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Say whether a version, or any of a model, answers now."""
        if not request.version:
            return pb.ModelReadyResponse(ready=self._models.newest(request.name) is not None)
        key = oip.key_from_names(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._models.ready(key) is not None)

    @status.with_codes_of_triton
    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Describe a version; one that is not here is loaded, as a prediction would."""
        key = self._key(request.name, request.version)
        model = await self._service.find(key, served.remaining_seconds())
        versions = [each.version for each in self._ready(request.name)]
        return oip.metadata(request.name, versions, model.manifest)

    @status.with_codes_of_triton
    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Run a version on rows."""
        key = self._key(request.model_name, request.model_version)
        question = oip.Question(request)
        prediction = await self._service.predict(
            key, question.rows, question.pack, served.remaining_seconds()
        )
        return question.reply(key, prediction)

    @status.with_codes_of_triton
    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """List the versions of this replica."""
        oip.check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(
            models=[
                oip.index_entry(key, model)
                for key, model in self._models.all()
                if not request.ready or isinstance(model, ReadyModel)
            ]
        )

    @status.with_codes_of_triton
    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load a version now."""
        name, version = oip.repository_model(request)
        known = [key for key, _ in self._models.all() if key.model == name]
        if not version and not known:
            raise _unknown(name, f'no version is known here; name one, as in "{name}/1"')
        key = oip.key_from_names(name, version) if version else known[-1]
        await self._service.load(key, served.remaining_seconds())
        return pb.RepositoryModelLoadResponse()

    @status.with_codes_of_triton
    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Drop a version, or all of a model, from memory."""
        name, version = oip.repository_model(request)
        keys = [oip.key_from_names(name, version)] if version else self._ready(name)
        if not keys:
            raise _unknown(name, "no version is loaded")
        for key in keys:
            await self._models.unload(key)
        return pb.RepositoryModelUnloadResponse()

    def _key(self, name: str, version: str) -> VersionKey:
        """Return the version that is meant; without a number the newest that is ready.

        Raises:
            InvalidArgumentError: No version can have that name.
            NotFoundError: None is ready.
        """
        if version:
            return oip.key_from_names(name, version)
        found = self._models.newest(name)
        if found is None:
            raise _unknown(name, "no version is ready")
        return found

    def _ready(self, name: str) -> list[VersionKey]:
        return [
            key
            for key, model in self._models.all()
            if key.model == name and isinstance(model, ReadyModel)
        ]


def _unknown(name: str, why: str) -> errors.NotFoundError:
    return errors.NotFoundError(
        errors.Reason.MODEL_NOT_FOUND,
        f"model {name[:100]!r}: {why}",
        metadata={"model": name[:100]},
    )
