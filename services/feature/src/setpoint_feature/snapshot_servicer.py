"""The RPCs of snapshots: convert, call, convert."""

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc.aio

from setpoint.feature.v1 import snapshot_service_pb2 as pb
from setpoint.feature.v1 import snapshot_service_pb2_grpc
from setpoint_columns import Columns
from setpoint_db import idempotency
from setpoint_feature import convert, ports, snapshot_convert
from setpoint_feature.service import training_sets
from setpoint_runtime import errors, paging

SERVICE_NAME = "setpoint.feature.v1.SnapshotService"
_Context = grpc.aio.ServicerContext[Any, Any]
_LIST = "ListSnapshots"


class SnapshotServicer(snapshot_service_pb2_grpc.SnapshotServiceServicer):
    """Answers `setpoint.feature.v1.SnapshotService`."""

    def __init__(self, sets: training_sets.TrainingSets | None) -> None:
        """Serves training sets; None where there is no folder for them."""
        self._sets = sets

    async def CreateSnapshot(
        self, request_iterator: AsyncIterator[pb.CreateSnapshotRequest], context: _Context
    ) -> pb.CreateSnapshotResponse:
        """Joins and keeps a streamed spine."""
        first = await anext(aiter(request_iterator), None)
        if first is None:
            rule = "must come, at least once"
            raise errors.invalid("spine", None, rule, errors.Reason.MISSING_FIELD)
        wanted = snapshot_convert.wanted_from_proto(first)
        idempotency.check_request_id(wanted.request_id)

        async def spines() -> AsyncGenerator[Columns, None]:
            yield convert.columns_from_proto(first.spine, "spine")
            async for request in request_iterator:
                yield convert.columns_from_proto(request.spine, "spine")

        async with contextlib.aclosing(spines()) as given:
            stored, replayed = await self._asked().create(wanted, given)
        return pb.CreateSnapshotResponse(
            snapshot=snapshot_convert.snapshot_to_proto(stored), replayed=replayed
        )

    async def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: _Context
    ) -> pb.GetSnapshotResponse:
        """Reads what is known about a snapshot."""
        found = await self._asked().get(request.snapshot_id)
        return pb.GetSnapshotResponse(snapshot=snapshot_convert.snapshot_to_proto(found))

    async def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: _Context
    ) -> pb.ListSnapshotsResponse:
        """Lists snapshots."""
        size = paging.size(request.page_size)
        scope = [request.feature_set]
        key = paging.decode(_LIST, scope, request.page_token, (uuid.UUID,))
        before = "" if key is None else str(key[0])
        found = await self._asked().page(request.feature_set, before, size + 1)
        page = found[:size]
        is_last = len(found) <= size
        return pb.ListSnapshotsResponse(
            snapshots=map(snapshot_convert.snapshot_to_proto, page),
            next_page_token="" if is_last else paging.encode(_LIST, scope, (page[-1].snapshot_id,)),
        )

    async def ReadSnapshot(
        self, request: pb.ReadSnapshotRequest, context: _Context
    ) -> AsyncIterator[pb.ReadSnapshotResponse]:
        """Streams the content of a snapshot."""
        async with contextlib.aclosing(self._asked().read(request.snapshot_id)) as parts:
            async for rows in parts:
                yield snapshot_convert.rows_to_proto(rows)

    async def CompareSnapshot(
        self, request: pb.CompareSnapshotRequest, context: _Context
    ) -> pb.CompareSnapshotResponse:
        """Asks the question of a snapshot again."""
        found, again, now, views = await self._asked().compare(request.snapshot_id)
        return pb.CompareSnapshotResponse(
            snapshot=snapshot_convert.snapshot_to_proto(found),
            asked_again=snapshot_convert.difference_to_proto(again, found),
            known_now=snapshot_convert.difference_to_proto(now, found),
            views=snapshot_convert.sequences_to_proto(views),
        )

    async def DeleteSnapshot(
        self, request: pb.DeleteSnapshotRequest, context: _Context
    ) -> pb.DeleteSnapshotResponse:
        """Removes a snapshot."""
        fingerprint = idempotency.fingerprint("DeleteSnapshot", request.snapshot_id.lower())
        wish = ports.Wish(request.request_id, "DeleteSnapshot", fingerprint)
        replayed = await self._asked().delete(wish, request.snapshot_id)
        return pb.DeleteSnapshotResponse(replayed=replayed)

    def _asked(self) -> training_sets.TrainingSets:
        if self._sets is None:
            raise errors.UnimplementedError(
                errors.Reason.UNIMPLEMENTED,
                "this feature service has no folder for snapshots; set SETPOINT_FEATURE_SEGMENT_URL",
            )
        return self._sets
