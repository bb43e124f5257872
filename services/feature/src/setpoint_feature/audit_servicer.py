"""The RPCs that explain and prove: convert, call, convert."""

import dataclasses
import zlib
from typing import Any

import grpc.aio

from setpoint.feature.v1 import audit_service_pb2 as pb
from setpoint.feature.v1 import audit_service_pb2_grpc
from setpoint_feature import audit_convert, convert
from setpoint_feature.service import explaining
from setpoint_runtime import paging

SERVICE_NAME = "setpoint.feature.v1.AuditService"
_Context = grpc.aio.ServicerContext[Any, Any]
_EXPLAIN = "ExplainFeature"
_SMALLER, _GREATER = 0, 1


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Answers `setpoint.feature.v1.AuditService`."""

    def __init__(self, explainer: explaining.Explainer) -> None:
        """Serves the given parts."""
        self._explainer = explainer

    async def ExplainFeature(
        self, request: pb.ExplainFeatureRequest, context: _Context
    ) -> pb.ExplainFeatureResponse:
        """Explains one value."""
        question = audit_convert.question_from_proto(request)
        entity = convert.columns_from_proto(request.entity, "entity")
        size = paging.size(request.page_size)
        scope = [_scope(request)]
        token = paging.decode(_EXPLAIN, scope, request.page_token, (int, int, int, int))
        if token is None:
            found = await self._explainer.explain(question, entity)
            anchor = found.explanation.anchor(found.past, found.time)
            start = max(0, min(anchor - size // 2, len(found.past.rows) - size))
        else:
            upto, time, edge, direction = map(int, token)
            question = dataclasses.replace(question, time=time)
            found = await self._explainer.explain(question, entity, upto)
            start = edge if direction == _SMALLER else max(0, edge - size)
            size = size if direction == _SMALLER else edge - start
        stop = min(start + size, len(found.past.rows))

        def to_page(edge: int, direction: int) -> str:
            return paging.encode(_EXPLAIN, scope, (found.upto, found.time, edge, direction))

        tokens = (
            to_page(stop, _SMALLER) if stop < len(found.past.rows) else "",
            to_page(start, _GREATER) if start > 0 else "",
        )
        return audit_convert.explained_to_proto(found, range(start, stop), tokens)


def _scope(request: pb.ExplainFeatureRequest) -> int:
    """Returns a number for what is asked, pages left aside."""
    asked = pb.ExplainFeatureRequest()
    asked.CopyFrom(request)
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    return zlib.crc32(asked.SerializeToString(deterministic=True))
