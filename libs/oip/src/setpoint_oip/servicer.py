"""What every server of the protocol answers in the same way."""

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final

import grpc.aio

from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.protocol import open_inference_pb2_grpc
from setpoint_runtime import errors

SERVICE: Final = "inference.GRPCInferenceService"
"""Full name of the service."""

add_to_server = open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server

DESCRIPTORS: Final = pb.DESCRIPTOR.pool
"""Where the service is described; nowhere else."""

Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for the server; a subclass answers for models, and for a repository if it has one."""

    def __init__(
        self, distribution: str, is_ready: Callable[[], bool], extensions: Sequence[str] = ()
    ) -> None:
        """Speak for a server.

        Args:
            distribution: Name of the server, whose installed version is told too.
            is_ready: Says whether work may be given to it.
            extensions: Extensions of the protocol that it has.
        """
        self._is_ready = is_ready
        self._metadata = pb.ServerMetadataResponse(
            name=distribution, version=metadata.version(distribution), extensions=extensions
        )

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """Say that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Say whether work may be given to it."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name the server."""
        return self._metadata

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Refuse: there is no repository here."""
        raise no_repository()

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Refuse: there is no repository here."""
        raise no_repository()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Refuse: there is no repository here."""
        raise no_repository()


def no_repository() -> errors.UnimplementedError:
    """Return the error for a server without the extension."""
    return errors.UnimplementedError(
        errors.Reason.UNIMPLEMENTED, "this server has no model repository"
    )
