import uuid
from typing import Any

import pytest

from setpoint.monitoring.v1 import monitoring_service_pb2 as pb
from setpoint.monitoring.v1 import prediction_pb2
from setpoint_columns import Columns, DataType, proto
from setpoint_feature.adapters import monitoring_records


def record(name: str, version: str) -> prediction_pb2.PredictionRecords:
    """Returns the record of one prediction that was served one feature."""
    predictions: dict[str, tuple[DataType, list[Any]]] = {
        "prediction_id": (DataType.STRING, [str(uuid.UUID(int=1))]),
        "event_time": (DataType.TIMESTAMP, [5]),
    }
    made = prediction_pb2.PredictionRecords(
        predictions=proto.to_proto(Columns.from_dict(predictions)),
        inputs=proto.to_proto(Columns.from_dict({"f": (DataType.INT64, [1])})),
        input_statuses=[b"\1"],
        input_event_times=[bytes(8)],
    )
    made.feature_set.name, made.feature_set.version = name, version
    return made


def test_reply_time_may_be_shared() -> None:
    """A reply time that the record says once for all its predictions is each one's."""
    made = record("s", "0a")
    made.common.CopyFrom(
        proto.to_proto(Columns.from_dict({"reply_time": (DataType.TIMESTAMP, [77])}))
    )
    assert monitoring_records.served_rows(made, 9).reply_times.tolist() == [77]


class Stub:
    """Answers with given records."""

    def __init__(self, records: list[prediction_pb2.PredictionRecords]) -> None:
        self._records = records

    async def SampleRecords(
        self, request: pb.SampleRecordsRequest, timeout: float
    ) -> pb.SampleRecordsResponse:
        stored = [
            pb.StoredRecord(record_id=number, record_time=9, record=each)
            for number, each in enumerate(self._records, 1)
        ]
        return pb.SampleRecordsResponse(
            records=stored, through_record_id=len(stored), newest_record_id=len(stored)
        )


async def test_records_that_no_database_can_keep_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record of names that were never this service's is left out, and those around it are not."""
    strange = [
        record("a\0b", "0a"),
        record("s", ""),
        record("s", "0a" * 5_000),
    ]
    good = record("s", "0a"), record("s", "0b")
    made = object.__new__(monitoring_records.MonitoringRecords)
    stub: Any = Stub([good[0], *strange, good[1]])
    monkeypatch.setattr(made, "_stub", stub, raising=False)

    page = await made.next(0, 10_000, 0)

    assert [each.version for each in page.rows] == ["0a", "0b"]
    assert page.through == 5
