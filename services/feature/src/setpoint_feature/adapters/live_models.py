"""Which model versions live, asked from the registry."""

from collections.abc import Mapping

import grpc.aio

from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint_feature.domain import changes
from setpoint_rpc import channel as channels

TIMEOUT_SECONDS = 5.0
PAGE = 1000


class RegistryModels:
    """Implements `ports.LiveModels`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Takes a channel to the registry."""
        self._stub = registry_service_pb2_grpc.RegistryServiceStub(opened)

    async def uses(self) -> list[changes.Use]:
        """Returns the exact feature set of every live version that has one.

        Raises:
            SetpointError: The registry does not answer.
        """
        try:
            found = []
            for model in await self._models():
                aliases = await self._aliases(model)
                found += [
                    changes.Use(model, each.version, _feature_set(each))
                    for each in await self._versions(model)
                    if is_live(each, aliases) and each.manifest.feature_set.name
                ]
            return found
        except grpc.aio.AioRpcError as error:
            raise channels.from_rpc_error(error) from error

    async def _models(self) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = registry_service_pb2.ListModelsRequest(page_size=PAGE, page_token=token)
            page = await self._stub.ListModels(request, timeout=TIMEOUT_SECONDS)
            found += [each.name for each in page.models]
            token = page.next_page_token
            if not token:
                return found

    async def _aliases(self, model: str) -> dict[str, int]:
        """Returns where each alias points now; events come newest first."""
        found: dict[str, int] = {}
        token = ""
        while True:
            request = registry_service_pb2.ListAliasEventsRequest(
                model=model, page_size=PAGE, page_token=token
            )
            page = await self._stub.ListAliasEvents(request, timeout=TIMEOUT_SECONDS)
            for event in page.events:
                found.setdefault(event.alias, event.version)
            token = page.next_page_token
            if not token:
                return found

    async def _versions(self, model: str) -> list[model_pb2.ModelVersion]:
        found: list[model_pb2.ModelVersion] = []
        token = ""
        while True:
            request = registry_service_pb2.ListModelVersionsRequest(
                model=model, page_size=PAGE, page_token=token
            )
            page = await self._stub.ListModelVersions(request, timeout=TIMEOUT_SECONDS)
            found += page.model_versions
            token = page.next_page_token
            if not token:
                return found


def is_live(version: model_pb2.ModelVersion, aliases: Mapping[str, int]) -> bool:
    """Tells whether a version serves, or may at any moment.

    The registry knows no routes. A candidate is routed before an alias points at it, so every approved version that
    is newer than one with an alias counts; of a model without aliases all do.
    """
    is_approved = version.approval_state == model_pb2.APPROVAL_STATE_APPROVED
    numbers = aliases.values()
    return is_approved and (
        not aliases or version.version in numbers or version.version > min(numbers)
    )


def _feature_set(version: model_pb2.ModelVersion) -> changes.SetVersion:
    return version.manifest.feature_set.name, version.manifest.feature_set.version
