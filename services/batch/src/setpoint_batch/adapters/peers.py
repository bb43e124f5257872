"""Registry, feature service and validation as the batch service needs them."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint.validation.v1 import validation_service_pb2, validation_service_pb2_grpc
from setpoint_batch import ports
from setpoint_batch.domain.job import Version
from setpoint_rpc import channel
from setpoint_runtime import errors

CHAMPION = "champion"
TIMEOUT_SECONDS = 10.0


class RegistryClient:
    """Implements `ports.Models`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to the registry."""
        self._stub = registry_service_pb2_grpc.RegistryServiceStub(opened)

    async def choose(self, model: str, version: int, alias: str) -> Version:
        """Return an approved version. Raises NotFoundError, FailedPreconditionError."""
        found = await self._version(model, version or await self._aliased(model, alias))
        if found.approval_state != model_pb2.APPROVAL_STATE_APPROVED:
            raise errors.FailedPreconditionError(
                errors.Reason.NOT_APPROVED,
                f"version {model}/{found.version} is not approved",
                metadata={"model": model, "version": str(found.version)},
            )
        feature_set = found.manifest.feature_set
        return Version(
            model, found.version, found.manifest_digest, (feature_set.name, feature_set.version)
        )

    async def manifest(self, version: Version) -> ports.Json:
        """Return what running a version needs. Raises FailedPreconditionError."""
        found = await self._version(version.model, version.version)
        if found.manifest_digest != version.manifest_digest:
            raise errors.FailedPreconditionError(
                errors.Reason.DIGEST_MISMATCH,
                f"version {version.model}/{version.version}: its manifest is another one by now",
            )
        # Profiles are many times as large as the rest, and nobody looks at them here.
        found.manifest.ClearField("reference_profiles")
        return {
            "model": found.model,
            "version": found.version,
            "manifest_digest": found.manifest_digest,
            "artifact_digest": found.manifest.artifact_digest,
            "manifest": found.manifest.SerializeToString().hex(),
        }

    async def _aliased(self, model: str, alias: str) -> int:
        request = registry_service_pb2.GetAliasRequest(model=model, alias=alias or CHAMPION)
        answer = await _called(self._stub.GetAlias(request, timeout=TIMEOUT_SECONDS))
        return int(answer.alias.version)

    async def _version(self, model: str, version: int) -> model_pb2.ModelVersion:
        request = registry_service_pb2.GetModelVersionRequest(
            model_version=reference_pb2.ModelVersionReference(model=model, version=version)
        )
        answer = await _called(self._stub.GetModelVersion(request, timeout=TIMEOUT_SECONDS))
        found: model_pb2.ModelVersion = answer.model_version
        return found


class FeaturesClient:
    """Implements `ports.Features`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to the feature service."""
        self._stub = feature_service_pb2_grpc.FeatureServiceStub(opened)

    async def definition(self, feature_set: tuple[str, str]) -> ports.Json:
        """Return keys, features and request fields of a feature set. Raises NotFoundError."""
        name, version = feature_set
        request = feature_service_pb2.GetFeatureSetRequest(
            feature_set=reference_pb2.FeatureSetReference(name=name, version=version)
        )
        answer = await _called(self._stub.GetFeatureSet(request, timeout=TIMEOUT_SECONDS))
        found = answer.feature_set
        return {
            "name": found.name,
            "version": found.version,
            "keys": {each.name: int(each.dtype) for each in answer.key_columns},
            "features": [
                *(each.alias or each.field for each in found.features),
                *(each.name for each in found.transformations),
            ],
            "request_fields": {each.name: int(each.dtype) for each in found.request_fields},
            "request_columns": [each.name for each in answer.request_columns],
        }


class RulesClient:
    """Implements `ports.Rules`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to validation."""
        self._stub = validation_service_pb2_grpc.ValidationServiceStub(opened)

    async def of_feature_set(self, name: str) -> ports.Json:
        """Return the rules in force for a feature set, with their revision."""
        request = validation_service_pb2.WatchRulesRequest()
        call = self._stub.WatchRules(request, timeout=TIMEOUT_SECONDS)
        try:
            # The first message of a watch is what is in force.
            snapshot = await anext(aiter(call))
        except StopAsyncIteration:
            raise errors.UnavailableError(
                errors.Reason.UNAVAILABLE, "validation ended before it sent its rules"
            ) from None
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        finally:
            call.cancel()
        suites = [each for each in snapshot.suites if each.feature_set == name]
        return {
            "revision": snapshot.revision,
            "names": [each.name for each in suites],
            "suites": [each.SerializeToString().hex() for each in suites],
        }


async def _called(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise channel.from_rpc_error(error) from error
