"""Messages of the snapshot service to domain values and back."""

from collections.abc import Sequence

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import snapshot_pb2
from setpoint.feature.v1 import snapshot_service_pb2 as pb
from setpoint_columns import proto
from setpoint_db import idempotency
from setpoint_feature.domain import definitions, training_set
from setpoint_feature.service import joining, training_sets


def wanted_from_proto(request: pb.CreateSnapshotRequest) -> training_sets.Wanted:
    """Returns what is to be kept."""
    ask = joining.Ask(
        feature_set=request.feature_set.name,
        version=request.feature_set.version,
        time_column=request.time_column or definitions.EVENT_TIME,
        arrival=not request.as_of_event_time,
    )
    header = pb.CreateSnapshotRequest()
    header.CopyFrom(request)
    header.ClearField("spine")
    data = header.SerializeToString(deterministic=True)

    def fingerprint(spine: str) -> bytes:
        return idempotency.fingerprint("CreateSnapshot", data, spine)

    return training_sets.Wanted(
        request.request_id, ask, request.description, fingerprint, request.life_microseconds
    )


def snapshot_to_proto(found: training_set.TrainingSet) -> snapshot_pb2.Snapshot:
    """Returns the message of a training set."""
    return snapshot_pb2.Snapshot(
        snapshot_id=found.snapshot_id,
        feature_set=reference_pb2.FeatureSetReference(
            name=found.feature_set, version=found.version
        ),
        digest=found.digest,
        rows=found.rows,
        range=reference_pb2.TimeRange(start_time=found.start_time, end_time=found.end_time),
        time_column=found.time_column,
        as_of_event_time=not found.arrival,
        columns=[
            reference_pb2.FieldSpec(name=name, dtype=proto.data_type_to_proto(dtype))
            for name, dtype in found.columns
        ],
        spine_columns=found.spine_columns,
        views=sequences_to_proto(found.views),
        create_time=found.create_time,
        stored_bytes=found.stored_bytes,
        description=found.description,
        expire_time=found.expire_time,
    )


def sequences_to_proto(
    views: Sequence[training_set.ViewSequence],
) -> list[snapshot_pb2.ViewSequence]:
    """Returns how far the histories of views reach."""
    return [
        snapshot_pb2.ViewSequence(view=each.view, version=each.version, sequence=each.sequence)
        for each in views
    ]


def rows_to_proto(rows: training_set.Rows) -> pb.ReadSnapshotResponse:
    """Returns some rows of a training set."""
    return pb.ReadSnapshotResponse(
        table=proto.to_proto(rows.table),
        statuses=rows.served.statuses,
        event_times=rows.served.event_times,
    )


def difference_to_proto(
    found: training_set.Difference, of: training_set.TrainingSet
) -> pb.SnapshotDifference:
    """Returns how many rows of a training set would come out otherwise."""
    return pb.SnapshotDifference(
        rows=found.rows,
        share=found.rows / (of.rows - found.removed),
        rows_by_feature={name: count for name, count in found.by_feature.items() if count},
        removed_rows=found.removed,
    )
