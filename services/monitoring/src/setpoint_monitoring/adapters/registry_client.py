"""The registry as monitoring needs it."""

from __future__ import annotations

import grpc

from setpoint.common.v1 import reference_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint_monitoring import convert
from setpoint_monitoring.domain.records import ENSEMBLE, VersionFacts, VersionKey
from setpoint_rpc import channel


class RegistryClient:
    """Implements `ports.Registry`; versions are immutable, so each is asked for once."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to the registry."""
        self._stub = registry_service_pb2_grpc.RegistryServiceStub(opened)
        self._known: dict[VersionKey, VersionFacts] = {}

    async def facts(self, version: VersionKey) -> VersionFacts:
        """Return what is known of a version. Raises NotFoundError, UnavailableError."""
        known = self._known.get(version)
        if known is None:
            known = self._known[version] = await self._ask(version)
        return known

    async def _ask(self, version: VersionKey) -> VersionFacts:
        try:
            manifest = await self._manifest(version)
            model = await self._stub.GetModel(
                registry_service_pb2.GetModelRequest(name=version.model)
            )
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        return convert.facts_from_proto(manifest, model.model.task)

    async def _manifest(self, version: VersionKey) -> model_pb2.Manifest:
        if version.version == ENSEMBLE:
            # It was not registered; what is known is the task of its members.
            return model_pb2.Manifest()
        reference = reference_pb2.ModelVersionReference(
            model=version.model, version=version.version
        )
        found = await self._stub.GetModelVersion(
            registry_service_pb2.GetModelVersionRequest(model_version=reference)
        )
        return found.model_version.manifest
