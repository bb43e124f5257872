"""The contract's methods: convert, call, convert."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc.aio

from setpoint.registry.v1 import registry_service_pb2 as pb
from setpoint.registry.v1 import registry_service_pb2_grpc
from setpoint_registry import domain
from setpoint_registry.convert import manifest, messages
from setpoint_registry.service import RegistryService
from setpoint_runtime import paging

_PAGE_BYTES = 3 * 1024 * 1024
"""A page of manifests ends here, below the 4 MiB of a message."""

_Context = grpc.aio.ServicerContext[Any, Any]
_Row = TypeVar("_Row")


class RegistryServicer(registry_service_pb2_grpc.RegistryServiceServicer):
    """Serves `setpoint.registry.v1.RegistryService`."""

    def __init__(self, service: RegistryService) -> None:
        """Serve a service."""
        self._service = service

    async def CreateModel(
        self, request: pb.CreateModelRequest, context: _Context
    ) -> pb.CreateModelResponse:
        """Create a model."""
        made, replayed = await self._service.create_model(
            messages.request(request), messages.model_from_proto(request.model)
        )
        return pb.CreateModelResponse(model=messages.model_to_proto(made), replayed=replayed)

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        """Return a model."""
        found = await self._service.get_model(request.name)
        return pb.GetModelResponse(model=messages.model_to_proto(found))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        """Return a page of models."""
        size = paging.size(request.page_size)
        key = paging.decode("ListModels", (), request.page_token, (str,))
        rows = await self._service.list_models(str(key[0]) if key else "", size + 1)
        page, token = _page(rows, size, lambda row: paging.encode("ListModels", (), (row.name,)))
        return pb.ListModelsResponse(
            models=[messages.model_to_proto(row) for row in page], next_page_token=token
        )

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: _Context
    ) -> pb.UploadArtifactResponse:
        """Store an artifact."""
        parts = aiter(request_iterator)
        header = messages.header_from_proto(await anext(parts, None))
        stored, replayed = await self._service.upload(header, _data(parts))
        return pb.UploadArtifactResponse(digest=stored.digest, size=stored.size, replayed=replayed)

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: _Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        """Stream an artifact."""
        async with contextlib.aclosing(self._service.download(request.digest)) as pieces:
            async for piece in pieces:
                yield pb.DownloadArtifactResponse(data=piece)

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: _Context
    ) -> pb.CreateModelVersionResponse:
        """Create the next version of a model."""
        made, replayed = await self._service.create_version(
            messages.request(request), request.model, manifest.from_proto(request.manifest)
        )
        return pb.CreateModelVersionResponse(
            model_version=messages.version_to_proto(made), replayed=replayed
        )

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: _Context
    ) -> pb.GetModelVersionResponse:
        """Return a version."""
        found = await self._service.get_version(messages.key_from_proto(request.model_version))
        return pb.GetModelVersionResponse(model_version=messages.version_to_proto(found))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: _Context
    ) -> pb.ListModelVersionsResponse:
        """Return a page of versions."""
        size, before = _number_page("ListModelVersions", request)
        rows = await self._service.list_versions(request.model, before, size + 1)
        page, token = _page(
            rows,
            _fitting(rows, size),
            lambda row: paging.encode("ListModelVersions", (request.model,), (row.version,)),
        )
        return pb.ListModelVersionsResponse(
            model_versions=[messages.version_to_proto(row) for row in page], next_page_token=token
        )

    async def SetAlias(self, request: pb.SetAliasRequest, context: _Context) -> pb.SetAliasResponse:
        """Point an alias at a version."""
        move = domain.Alias(
            request.model,
            request.alias,
            messages.version_from_proto(request.version, "version"),
            request.valid_from,
            request.actor,
            request.reason,
        )
        made, replayed = await self._service.set_alias(messages.request(request), move)
        return pb.SetAliasResponse(alias=messages.alias_to_proto(made), replayed=replayed)

    async def GetAlias(self, request: pb.GetAliasRequest, context: _Context) -> pb.GetAliasResponse:
        """Return where an alias points."""
        found = await self._service.get_alias(request.model, request.alias, request.time)
        return pb.GetAliasResponse(alias=messages.alias_to_proto(found))

    async def ListAliasEvents(
        self, request: pb.ListAliasEventsRequest, context: _Context
    ) -> pb.ListAliasEventsResponse:
        """Return a page of events."""
        size, before = _number_page("ListAliasEvents", request)
        rows = await self._service.list_alias_events(request.model, before, size + 1)
        page, token = _page(
            rows,
            size,
            lambda row: paging.encode("ListAliasEvents", (request.model,), (row.sequence,)),
        )
        return pb.ListAliasEventsResponse(
            events=[messages.alias_to_proto(row) for row in page], next_page_token=token
        )

    async def DecideApproval(
        self, request: pb.DecideApprovalRequest, context: _Context
    ) -> pb.DecideApprovalResponse:
        """Approve or reject a version."""
        made, replayed = await self._service.decide(
            messages.request(request),
            messages.key_from_proto(request.model_version),
            request.manifest_digest,
            messages.decision_from_proto(request.decision),
            request.approver,
            request.comment,
        )
        return pb.DecideApprovalResponse(
            approval=messages.approval_to_proto(made), replayed=replayed
        )

    async def ListApprovals(
        self, request: pb.ListApprovalsRequest, context: _Context
    ) -> pb.ListApprovalsResponse:
        """Return a page of decisions."""
        size, before = _number_page("ListApprovals", request)
        rows = await self._service.list_approvals(request.model, before, size + 1)
        page, token = _page(
            rows,
            size,
            lambda row: paging.encode("ListApprovals", (request.model,), (row.sequence,)),
        )
        return pb.ListApprovalsResponse(
            approvals=[messages.approval_to_proto(row) for row in page], next_page_token=token
        )


async def _data(parts: AsyncIterator[pb.UploadArtifactRequest]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield messages.data_from_proto(part)


def _number_page(
    method: str,
    request: pb.ListModelVersionsRequest | pb.ListAliasEventsRequest | pb.ListApprovalsRequest,
) -> tuple[int, int | None]:
    """Return the size of a page and the number that it begins before."""
    key = paging.decode(method, (request.model,), request.page_token, (int,))
    return paging.size(request.page_size), int(key[0]) if key else None


def _page(rows: list[_Row], size: int, token: Callable[[_Row], str]) -> tuple[list[_Row], str]:
    """Return the rows of a page and its token, given one row more than fits if there is one."""
    if len(rows) <= size:
        return rows, ""
    return rows[:size], token(rows[size - 1])


def _fitting(rows: list[domain.ModelVersion], size: int) -> int:
    """Return how many versions, but at least one, fit a message."""
    total = 0
    for count, row in enumerate(rows[:size]):
        total += len(row.manifest)
        if count and total > _PAGE_BYTES:
            return count
    return size
