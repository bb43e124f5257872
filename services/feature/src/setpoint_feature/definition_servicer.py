"""The RPCs that plan and apply definitions: convert, call, convert."""

from typing import Any

import grpc.aio

from setpoint.feature.v1 import definition_service_pb2 as pb
from setpoint.feature.v1 import definition_service_pb2_grpc
from setpoint_db import idempotency
from setpoint_feature import definition_convert, ports
from setpoint_feature.service import planning
from setpoint_runtime import paging

SERVICE_NAME = "setpoint.feature.v1.DefinitionService"
_Context = grpc.aio.ServicerContext[Any, Any]
_APPLY = "ApplyDefinitions"
_LIST = "ListAppliedDefinitions"
_LATEST = (1 << 63) - 1


class DefinitionServicer(definition_service_pb2_grpc.DefinitionServiceServicer):
    """Answers `setpoint.feature.v1.DefinitionService`."""

    def __init__(self, planner: planning.Planner, answer_bytes: int) -> None:
        """Serves a planner; answers have about `answer_bytes` at most."""
        self._planner = planner
        self._answer_bytes = answer_bytes

    async def PlanDefinitions(
        self, request: pb.PlanDefinitionsRequest, context: _Context
    ) -> pb.PlanDefinitionsResponse:
        """Says what applying definitions would do."""
        wanted = definition_convert.wanted_from_proto(request.definitions)
        revision, planned = await self._planner.plan(wanted)
        found = definition_convert.changes_to_proto(each.change for each in planned)
        return pb.PlanDefinitionsResponse(revision=revision, changes=found)

    async def ApplyDefinitions(
        self, request: pb.ApplyDefinitionsRequest, context: _Context
    ) -> pb.ApplyDefinitionsResponse:
        """Applies definitions."""
        wanted = definition_convert.wanted_from_proto(request.definitions)
        applied, replayed = await self._planner.apply(
            _wish(request),
            wanted,
            request.revision,
            actor=request.actor,
            reason=request.reason,
            force=request.force,
        )
        return pb.ApplyDefinitionsResponse(
            revision=applied.revision,
            changes=definition_convert.changes_to_proto(applied.changes),
            replayed=replayed,
        )

    async def ListAppliedDefinitions(
        self, request: pb.ListAppliedDefinitionsRequest, context: _Context
    ) -> pb.ListAppliedDefinitionsResponse:
        """Lists what was applied."""
        size = paging.size(request.page_size)
        key = paging.decode(_LIST, (), request.page_token, (int,))
        found = await self._planner.applied(int(key[0]) if key else _LATEST, size + 1)
        response = pb.ListAppliedDefinitionsResponse()
        total = 0
        for each in found[:size]:
            message = definition_convert.applied_to_proto(each)
            total += message.ByteSize()
            if response.applied and total > self._answer_bytes:
                break
            response.applied.append(message)
        if len(response.applied) < len(found):
            last = response.applied[-1].revision
            response.next_page_token = paging.encode(_LIST, (), (last,))
        return response


def _wish(request: pb.ApplyDefinitionsRequest) -> ports.Wish:
    content = pb.ApplyDefinitionsRequest()
    content.CopyFrom(request)
    content.ClearField("request_id")
    data = content.SerializeToString(deterministic=True)
    return ports.Wish(request.request_id, _APPLY, idempotency.fingerprint(_APPLY, data))
