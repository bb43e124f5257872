"""Prediction records, asked from monitoring."""

import logging

import grpc.aio
import numpy as np
import numpy.typing as npt

from setpoint.monitoring.v1 import monitoring_service_pb2 as pb
from setpoint.monitoring.v1 import monitoring_service_pb2_grpc, prediction_pb2
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import ports
from setpoint_feature.domain import definitions, skew, visibility
from setpoint_rpc import channel as channels
from setpoint_runtime import errors, names

TIMEOUT_SECONDS = 10.0
_LOGGER = logging.getLogger(__name__)
_GIVEN = bytes([definitions.Status.GIVEN])
_UNAVAILABLE = "FEATURES_UNAVAILABLE:"


class MonitoringRecords:
    """Implements `ports.Records`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Takes a channel to monitoring."""
        self._stub = monitoring_service_pb2_grpc.MonitoringServiceStub(opened)

    async def next(self, after: int, share: int, until: int) -> ports.RecordPage:
        """Returns a share of the records after one."""
        request = pb.SampleRecordsRequest(
            after_record_id=after, basis_points=share, until_time=until
        )
        try:
            answer = await self._stub.SampleRecords(request, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise channels.from_rpc_error(error) from error
        rows = []
        for each in answer.records:
            if not _has_any(each):
                continue
            try:
                rows.append(served_rows(each.record, each.record_time))
            except errors.InvalidArgumentError as error:
                # One that cannot be read must not keep all that follow from being replayed.
                _LOGGER.warning("record %d is not replayed: %s", each.record_id, error)
        return ports.RecordPage(rows, after, answer.through_record_id, answer.newest_record_id)


def _has_any(stored: pb.StoredRecord) -> bool:
    """Tells whether a record holds features that this service answered."""
    record = stored.record
    count = len(record.inputs.columns)
    is_whole = count == len(record.input_statuses) == len(record.input_event_times)
    return bool(record.feature_set.name) and count > 0 and is_whole


def served_rows(record: prediction_pb2.PredictionRecords, record_time: int) -> skew.ServedRows:
    """Returns what the predictions of a record were served.

    Raises:
        InvalidArgumentError: The record is malformed, or names what this service cannot have answered.
    """
    names.check_name("feature_set.name", record.feature_set.name)
    names.check_name("feature_set.version", record.feature_set.version)
    predictions = proto.from_proto(record.predictions, "predictions").with_constants(
        proto.from_proto(record.common, "common")
    )
    inputs = proto.from_proto(record.inputs, "inputs")
    entities = (
        proto.from_proto(record.entities, "entities")
        if record.entities.columns
        else Columns(predictions.rows)
    )
    degraded: list[str | None] = [None] * predictions.rows
    if "degradations" in predictions:
        degraded = predictions["degradations"].to_list()
    # What callers gave goes along: features may be computed from it.
    taken = {column.name for column in entities.columns}
    given = [
        column
        for column, statuses in zip(inputs.columns, record.input_statuses, strict=True)
        if column.name not in taken and not statuses.strip(_GIVEN)
    ]
    return skew.ServedRows(
        feature_set=record.feature_set.name,
        version=record.feature_set.version,
        day=record_time // skew.DAY,
        prediction_ids=tuple(predictions["prediction_id"].to_list()),
        times=predictions["event_time"].values,
        reply_times=_replies(predictions),
        unanswered=np.array([_UNAVAILABLE in (each or "") for each in degraded], np.bool_),
        spine=Columns(predictions.rows, [*entities.columns, *given]),
        inputs=inputs,
        statuses={
            column.name: np.frombuffer(each, np.uint8).astype(np.int64)
            for column, each in zip(inputs.columns, record.input_statuses, strict=True)
        },
        event_times={
            column.name: _int64(each)
            for column, each in zip(inputs.columns, record.input_event_times, strict=True)
        },
    )


def _replies(predictions: Columns) -> visibility.Times:
    column = predictions.by_name.get("reply_time")
    if column is None or column.dtype is not DataType.TIMESTAMP:
        return predictions["event_time"].values
    return column.values


def _int64(data: bytes) -> npt.NDArray[np.int64]:
    return np.frombuffer(data, "<i8").astype(np.int64)
