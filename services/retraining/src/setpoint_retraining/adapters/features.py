"""The feature service as retraining needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import (
    feature_service_pb2,
    feature_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from setpoint_columns import Columns, DataType, proto
from setpoint_retraining import ports
from setpoint_rpc import channel

SPINE_ROWS = 20_000
"""Rows of one message: well below 4 MiB with a few keys."""

TIMEOUT_SECONDS = 300.0


class FeaturesClient:
    """Implements `ports.Features`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to the feature service."""
        self._stub = feature_service_pb2_grpc.FeatureServiceStub(opened)
        self._snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(opened)

    async def feature_set(self, name: str) -> ports.FeatureSet:
        """Return the latest version of a feature set. Raises NotFoundError."""
        return await self.exact_feature_set(ports.FeatureSetKey(name, ""))

    async def exact_feature_set(self, key: ports.FeatureSetKey) -> ports.FeatureSet:
        """Return one version of a feature set. Raises NotFoundError."""
        request = feature_service_pb2.GetFeatureSetRequest(feature_set=_reference(key))
        try:
            response = await self._stub.GetFeatureSet(request)
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        found = response.feature_set
        return ports.FeatureSet(
            key=ports.FeatureSetKey(found.name, found.version),
            keys={each.name: DataType(each.dtype) for each in response.key_columns},
            features=(
                *(each.alias or each.field for each in found.features),
                *(each.name for each in found.transformations),
            ),
            request_fields={each.name: DataType(each.dtype) for each in found.request_fields},
            request_columns=tuple(each.name for each in response.request_columns),
        )

    async def entity_keys(self, view: str) -> tuple[str, ...]:
        """Return the key columns of a view's entity. Raises NotFoundError."""
        try:
            found = await self._stub.GetFeatureView(
                feature_service_pb2.GetFeatureViewRequest(name=view)
            )
            entity = await self._stub.GetEntity(
                feature_service_pb2.GetEntityRequest(name=found.view.entity)
            )
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        return tuple(each.name for each in entity.entity.keys)

    async def read_view(self, view: str, start: int, end: int, known_at: int) -> Columns:
        """Return a view's rows of a range of event time, as known at a time."""
        request = feature_service_pb2.ReadFeatureViewRequest(
            view=view,
            range=reference_pb2.TimeRange(start_time=start, end_time=end),
            known_at_time=known_at,
        )
        call = self._stub.ReadFeatureView(request, timeout=TIMEOUT_SECONDS)
        try:
            parts = [proto.from_proto(each.rows) async for each in call]
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        finally:
            call.cancel()
        return Columns.concat(parts) if parts else Columns(0)

    async def historical(self, feature_set: ports.FeatureSetKey, spine: Columns) -> Columns:
        """Return the features of each spine row as known at its event_time."""
        call = self._stub.GetHistoricalFeatures(
            _pieces(feature_set, spine), timeout=TIMEOUT_SECONDS
        )
        try:
            parts = [proto.from_proto(each.features) async for each in call]
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        finally:
            call.cancel()
        return Columns.concat(parts) if parts else Columns(0)

    async def freeze(
        self,
        request_id: str,
        feature_set: ports.FeatureSetKey,
        spine: Columns,
        description: str,
    ) -> ports.Frozen:
        """Have spine and features kept, and return the features.

        A feature service that has no folder for snapshots keeps none.
        """
        header = snapshot_service_pb2.CreateSnapshotRequest(
            request_id=request_id, feature_set=_reference(feature_set), description=description
        )
        try:
            made = await self._snapshots.CreateSnapshot(
                _kept_pieces(header, spine), timeout=TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return ports.Frozen(await self.historical(feature_set, spine), "")
            raise channel.from_rpc_error(error) from error
        found = made.snapshot
        features = [column.name for column in found.columns[found.spine_columns :]]
        call = self._snapshots.ReadSnapshot(
            snapshot_service_pb2.ReadSnapshotRequest(snapshot_id=found.snapshot_id),
            timeout=TIMEOUT_SECONDS,
        )
        try:
            parts = [proto.from_proto(each.table).select(features) async for each in call]
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        finally:
            call.cancel()
        return ports.Frozen(Columns.concat(parts), found.snapshot_id)


async def _kept_pieces(
    header: snapshot_service_pb2.CreateSnapshotRequest, spine: Columns
) -> AsyncIterator[snapshot_service_pb2.CreateSnapshotRequest]:
    for start in range(0, spine.rows, SPINE_ROWS):
        piece = spine.slice(start, min(start + SPINE_ROWS, spine.rows))
        header.spine.CopyFrom(proto.to_proto(piece))
        yield header
        header = snapshot_service_pb2.CreateSnapshotRequest()


async def _pieces(
    feature_set: ports.FeatureSetKey, spine: Columns
) -> AsyncIterator[feature_service_pb2.GetHistoricalFeaturesRequest]:
    for start in range(0, spine.rows, SPINE_ROWS):
        piece = spine.slice(start, min(start + SPINE_ROWS, spine.rows))
        request = feature_service_pb2.GetHistoricalFeaturesRequest(spine=proto.to_proto(piece))
        if start == 0:
            request.feature_set.CopyFrom(_reference(feature_set))
            request.shared_event_times = True
        yield request


def _reference(key: ports.FeatureSetKey) -> reference_pb2.FeatureSetReference:
    return reference_pb2.FeatureSetReference(name=key.name, version=key.version)
