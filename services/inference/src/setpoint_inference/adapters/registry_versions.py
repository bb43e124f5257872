"""Versions from the registry, with the disk in between."""

import asyncio
import contextlib
import io

import grpc.aio

from setpoint.common.v1 import reference_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint_artifacts import digest as digests
from setpoint_artifacts import formats, refusal
from setpoint_inference.adapters.artifact_cache import ArtifactCache
from setpoint_inference.convert import manifests
from setpoint_inference.domain import version
from setpoint_inference.domain.version import Format, Manifest, VersionKey
from setpoint_rpc import channel
from setpoint_runtime import errors

_REGISTRY_SECONDS = 5.0


class RegistryVersions:
    """Implements `ports.Versions`.

    Manifests are immutable, so when the registry does not answer the one that was seen last is as
    good. Only a rejection may be missed that way, which routes heed as well.
    """

    def __init__(self, opened: grpc.aio.Channel, cache: ArtifactCache) -> None:
        """Use a channel to the registry and a cache."""
        self._stub = registry_service_pb2_grpc.RegistryServiceStub(opened)
        self._cache = cache

    async def manifest(self, key: VersionKey) -> Manifest:
        """Return what a version is made of."""
        request = registry_service_pb2.GetModelVersionRequest(
            model_version=reference_pb2.ModelVersionReference(model=key.model, version=key.version)
        )
        try:
            answer = await self._stub.GetModelVersion(request, timeout=_REGISTRY_SECONDS)
        except grpc.aio.AioRpcError as error:
            known = channel.from_rpc_error(error)
            if not isinstance(known, errors.UnavailableError | errors.DeadlineExceededError):
                raise known from error
            return await self._seen_before(key, known)
        content = answer.model_version.SerializeToString()
        await asyncio.to_thread(self._cache.put_manifest, *key, content)
        return manifests.from_proto(answer.model_version)

    async def _seen_before(self, key: VersionKey, known: errors.SetpointError) -> Manifest:
        content = await asyncio.to_thread(self._cache.manifest, *key)
        if content is None:
            raise version.not_ready(key, "the registry does not answer") from known
        try:
            message = model_pb2.ModelVersion.FromString(content)
        except ValueError:
            raise version.not_ready(key, "the registry does not answer") from known
        if (message.model, message.version) != key:
            raise version.not_ready(key, "the registry does not answer") from known
        return manifests.from_proto(message)

    async def artifact(self, manifest: Manifest) -> bytes:
        """Return the bytes that have the manifest's digest and size."""
        found = await asyncio.to_thread(self._cache.artifact, manifest.digest, manifest.size)
        if found is not None:
            return found
        data = await self._download(manifest)
        await asyncio.to_thread(self._cache.put_artifact, manifest.digest, data)
        return data

    async def _download(self, manifest: Manifest) -> bytes:
        key = manifest.key
        request = registry_service_pb2.DownloadArtifactRequest(digest=manifest.digest)
        # It hands its bytes over without a copy, which would hold up everybody for as long as it takes.
        received = io.BytesIO()
        call = self._stub.DownloadArtifact(request)
        try:
            async for piece in call:
                received.write(piece.data)
                if received.tell() > manifest.size:
                    break
        except grpc.aio.AioRpcError as error:
            known = channel.from_rpc_error(error)
            if isinstance(known, errors.UnavailableError | errors.DeadlineExceededError):
                raise version.not_ready(key, "the registry does not answer") from known
            raise version.refused(key, known.reason, known.message) from known
        finally:
            with contextlib.suppress(asyncio.InvalidStateError):
                call.cancel()
        data = received.getvalue()
        try:
            await asyncio.to_thread(_verify, data, manifest)
        except refusal.RefusedError as error:
            raise version.refused(key, error.reason, error.message) from error
        return data


def _verify(data: bytes, manifest: Manifest) -> None:
    # The others look like what is refused; what runs them looks at them in its own way.
    if manifest.format is Format.ONNX:
        formats.refuse_unserved(data)
    digests.verify(data, manifest.digest, manifest.size)
