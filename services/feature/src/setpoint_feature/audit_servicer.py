"""The RPCs that explain and prove: convert, call, convert."""

import dataclasses
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio

from setpoint.feature.v1 import audit_service_pb2 as pb
from setpoint.feature.v1 import audit_service_pb2_grpc
from setpoint_feature import audit_convert, convert
from setpoint_feature.domain import definitions
from setpoint_feature.domain import skew as domain
from setpoint_feature.service import explaining, leaks, skew
from setpoint_runtime import errors, paging

SERVICE_NAME = "setpoint.feature.v1.AuditService"
_Context = grpc.aio.ServicerContext[Any, Any]
MAX_EXAMPLES = 20
WHOLE = 10_000
"""Basis points."""

_EXPLAIN = "ExplainFeature"
_SMALLER, _GREATER = 0, 1


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Answers `setpoint.feature.v1.AuditService`."""

    def __init__(
        self,
        explainer: explaining.Explainer,
        leak_meter: leaks.LeakMeter,
        replay: skew.SkewReplay | None,
        *,
        is_replaying: bool,
    ) -> None:
        """Serves the given parts; no replay where there is nobody to ask for records."""
        self._explainer = explainer
        self._leak_meter = leak_meter
        self._replay = replay
        self._is_replaying = is_replaying

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

    async def MeasureLeaks(
        self, request_iterator: AsyncIterator[pb.MeasureLeaksRequest], context: _Context
    ) -> pb.MeasureLeaksResponse:
        """Measures a streamed table."""
        found: leaks.Measurement | None = None
        columns: Sequence[str] = ()
        time_column = definitions.EVENT_TIME
        async for request in request_iterator:
            table = convert.columns_from_proto(request.table, "table")
            if found is None:
                ask = audit_convert.leak_ask_from_proto(request)
                found = await self._leak_meter.begin(ask, table)
                columns, time_column = table.names, ask.time_column
            await found.add(table)
        if found is None:
            rule = "must come, at least once"
            raise errors.invalid("table", None, rule, errors.Reason.MISSING_FIELD)
        return audit_convert.leaks_to_proto(found, columns, time_column)

    async def GetSkewReport(
        self, request: pb.GetSkewReportRequest, context: _Context
    ) -> pb.GetSkewReportResponse:
        """Tells what replays have found."""
        if not 0 <= request.examples <= MAX_EXAMPLES:
            raise errors.invalid("examples", request.examples, f"must be 0 to {MAX_EXAMPLES}")
        asked = request.feature_set
        progress, found = await self._asked().report(
            asked.name, asked.version, request.since_time // domain.DAY, request.examples or 3
        )
        return pb.GetSkewReportResponse(
            feature_sets=map(audit_convert.skew_to_proto, found),
            through_record_id=progress.through,
            newest_record_id=progress.newest,
            replay_time=progress.time,
            is_replaying=self._is_replaying,
        )

    async def ReplayPredictions(
        self, request: pb.ReplayPredictionsRequest, context: _Context
    ) -> pb.ReplayPredictionsResponse:
        """Replays some records now."""
        share = request.basis_points
        if not 0 <= share <= WHOLE:
            raise errors.invalid("basis_points", share, f"must be 0 to {WHOLE}")
        if request.after_record_id < 0:
            raise errors.invalid("after_record_id", request.after_record_id, "must be at least 0")
        page, tallies = await self._asked().replay(request.after_record_id, share or WHOLE)
        return pb.ReplayPredictionsResponse(
            feature_sets=map(audit_convert.skew_to_proto, domain.totals_of(tallies)),
            through_record_id=page.through,
            newest_record_id=page.newest,
        )

    def _asked(self) -> skew.SkewReplay:
        if self._replay is None:
            raise errors.UnimplementedError(
                errors.Reason.UNIMPLEMENTED,
                "this feature service has no address of monitoring, so it replays no predictions; "
                "set SETPOINT_FEATURE_MONITORING_ADDRESS",
            )
        return self._replay


def _scope(request: pb.ExplainFeatureRequest) -> int:
    """Returns a number for what is asked, pages left aside."""
    asked = pb.ExplainFeatureRequest()
    asked.CopyFrom(request)
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    return zlib.crc32(asked.SerializeToString(deterministic=True))
