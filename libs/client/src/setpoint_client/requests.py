"""Requests of the contract from what callers hold in their hands; the same for both clients."""

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint.monitoring.v1 import ingest_service_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_client import frames
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_columns import value as values
from setpoint_runtime import errors, ids

Time = dt.datetime | int
"""A datetime with a time zone, or microseconds since 1970 UTC."""

PREDICT_ROWS: Final = 10_000
WRITE_ROWS: Final = 100_000
ONLINE_ROWS: Final = 10_000
SPINE_ROWS: Final = 25_000
LEAST_SPINE_ROWS: Final = 1_000

_ANSWER_WIDTHS: Final[dict[int, int]] = {
    DataType.BOOL: 1,
    DataType.INT32: 4,
    DataType.FLOAT32: 4,
    DataType.STRING: 16,
}
"""Bytes of one value of a type, where they are not eight; of texts a guess."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_OUTCOME_TYPES: Final = {
    "prediction_id": DataType.STRING,
    "label": DataType.FLOAT64,
    "event_time": DataType.TIMESTAMP,
    "arrival_time": DataType.TIMESTAMP,
}


def microseconds(field: str, time: Time | None) -> int:
    """Returns a time in the contract's form, 0 for None.

    Raises:
        InvalidArgumentError: A datetime without a time zone; names `field`.
    """
    if time is None:
        return 0
    if isinstance(time, dt.datetime):
        if time.tzinfo is None:
            raise errors.invalid(field, time, "must have a time zone", errors.Reason.WRONG_TYPE)
        return (time - _EPOCH) // dt.timedelta(microseconds=1)
    return int(time)


def predict(
    route: str,
    entities: Mapping[str, Any] | None,
    inputs: Mapping[str, Any] | None,
    event_time: Time | None,
    assignment_key: str | None,
    request_id: str | None = None,
) -> router_service_pb2.PredictRequest:
    """Returns the request for one prediction."""
    if request_id is not None:
        _check_uuid("request_id", request_id)
    return router_service_pb2.PredictRequest(
        route=route,
        assignment_key=assignment_key or "",
        entities=values.map_to_proto(entities or {}, "entities"),
        inputs=values.map_to_proto(inputs or {}, "inputs"),
        event_time=microseconds("event_time", event_time),
        request_id=request_id or "",
    )


def predict_batches(
    route: str,
    rows: Any,
    assignment_key_column: str | None,
    event_time_column: str | None,
    event_time: Time | None,
) -> list[router_service_pb2.PredictBatchRequest]:
    """Returns the requests for the pieces of a frame of questions."""
    columns = _with_times(frames.to_columns(rows), (event_time_column,))
    return [
        router_service_pb2.PredictBatchRequest(
            route=route,
            rows=columns_proto.to_proto(piece),
            assignment_key_column=assignment_key_column or "",
            event_time_column=event_time_column or "",
            event_time=microseconds("event_time", event_time),
        )
        for piece in frames.pieces(columns, PREDICT_ROWS)
    ]


def write_features(
    view: str, rows: Any, batch_id: str, keep_good_rows: bool = False
) -> list[feature_service_pb2.WriteFeaturesRequest]:
    """Returns the requests for the pieces of a frame of values.

    The first piece has the batch's own id; the ids of the others follow from it, so that the same frame
    under the same id is a replay piece by piece.
    """
    _check_uuid("batch_id", batch_id)
    columns = _with_times(frames.to_columns(rows), ("event_time", "created_time"))
    return [
        feature_service_pb2.WriteFeaturesRequest(
            batch_id=str(uuid.uuid5(uuid.UUID(batch_id), str(index))) if index else batch_id,
            view=view,
            rows=columns_proto.to_proto(piece),
            keep_good_rows=keep_good_rows,
        )
        for index, piece in enumerate(frames.pieces(columns, WRITE_ROWS))
    ]


def new_batch_id() -> str:
    """Returns an id for a batch or a stream of them that has none."""
    return ids.uuid7()


def batch_id_of(stream_id: str, frame: int) -> str:
    """Returns the id of one frame of a stream, always the same one."""
    _check_uuid("stream_id", stream_id)
    return str(uuid.uuid5(uuid.UUID(stream_id), f"frame {frame}"))


def online_features(
    feature_set: str,
    version: str,
    entities: Any,
    as_of: Time | Sequence[Time] | None,
) -> list[feature_service_pb2.GetOnlineFeaturesRequest]:
    """Returns the requests for the pieces of a table of entities.

    Raises:
        InvalidArgumentError: There are several times, but not one for each row.
    """
    columns = frames.to_columns(entities)
    times = _times(as_of, columns.rows)
    made = []
    start = 0
    for piece in frames.pieces(columns, ONLINE_ROWS):
        own = times if len(times) <= 1 else times[start : start + piece.rows]
        made.append(
            feature_service_pb2.GetOnlineFeaturesRequest(
                feature_set=_feature_set(feature_set, version),
                entities=columns_proto.to_proto(piece),
                as_of_times=own,
                shared_event_times=True,
            )
        )
        start += piece.rows
    return made


def feature_set(name: str, version: str) -> feature_service_pb2.GetFeatureSetRequest:
    """Returns the request for the definition of a feature set."""
    return feature_service_pb2.GetFeatureSetRequest(feature_set=_feature_set(name, version))


def historical_features(
    definition: feature_service_pb2.GetFeatureSetResponse,
    spine: Any,
    time_column: str,
    as_of_event_time: bool,
) -> list[feature_service_pb2.GetHistoricalFeaturesRequest]:
    """Returns the stream of requests for a spine, of which only what is needed is sent: keys, times, and the request
    fields that transformations read.

    Raises:
        InvalidArgumentError: The spine lacks such a column; names it.
    """
    needed = [each.name for each in (*definition.key_columns, *definition.request_columns)]
    columns = frames.select(spine, dict.fromkeys([*needed, time_column]))
    columns = _with_times(columns, (time_column,))
    found = definition.feature_set
    made = [
        feature_service_pb2.GetHistoricalFeaturesRequest(spine=columns_proto.to_proto(piece))
        for piece in frames.pieces(columns, _spine_rows(found))
    ]
    made[0].feature_set.CopyFrom(_feature_set(found.name, found.version))
    made[0].time_column = time_column
    made[0].as_of_event_time = as_of_event_time
    made[0].shared_event_times = True
    return made


def _spine_rows(found: definition_pb2.FeatureSet) -> int:
    """Returns how many rows to ask about at once, so that their answer is about a message."""
    dtypes = [each.dtype for each in found.features]
    dtypes += [each.dtype for each in found.transformations]
    width = sum(_ANSWER_WIDTHS.get(dtype, 8) + 1 for dtype in dtypes) + 8
    return min(max(LEAST_SPINE_ROWS, frames.PIECE_BYTES // width), SPINE_ROWS)


def outcomes(table: Any) -> list[ingest_service_pb2.IngestOutcomesRequest]:
    """Returns the requests for the pieces of a table of outcomes.

    Raises:
        InvalidArgumentError: A column is missing, is not known, or has a value of another type.
    """
    given = frames.to_columns(table)
    for name in given.names:
        if name not in _OUTCOME_TYPES:
            reason = errors.Reason.UNKNOWN_FIELD
            raise errors.invalid(name, name, f"must be one of {', '.join(_OUTCOME_TYPES)}", reason)
    wanted = [name for name in _OUTCOME_TYPES if name in given or name != "arrival_time"]
    chosen = given.select(wanted)
    cast = []
    for column in chosen.columns:
        if column.dtype is DataType.BOOL:
            column = column.from_numpy(column.name, column.floats(), column.null_mask())
        cast.append(column.cast(_OUTCOME_TYPES[column.name]))
    return [
        ingest_service_pb2.IngestOutcomesRequest(outcomes=columns_proto.to_proto(piece))
        for piece in frames.pieces(Columns(given.rows, cast), WRITE_ROWS)
    ]


def single_outcome(
    prediction_id: str, label: float, event_time: Time, arrival_time: Time | None
) -> Columns:
    """Returns a table with one outcome."""
    columns: dict[str, tuple[DataType, Iterable[Any]]] = {
        "prediction_id": (DataType.STRING, [prediction_id]),
        "label": (DataType.FLOAT64, [float(label)]),
        "event_time": (DataType.TIMESTAMP, [microseconds("event_time", event_time)]),
    }
    if arrival_time is not None:
        arrival = microseconds("arrival_time", arrival_time)
        columns["arrival_time"] = (DataType.TIMESTAMP, [arrival])
    return Columns.from_dict({name: (dtype, list(each)) for name, (dtype, each) in columns.items()})


def _with_times(columns: Columns, names: Iterable[str | None]) -> Columns:
    """Returns the columns with integers where times are wanted read as microseconds."""
    for name in names:
        column = columns.get(name) if name else None
        if column is not None and column.dtype is DataType.INT64:
            columns = columns.with_column(column.cast(DataType.TIMESTAMP))
    return columns


def _feature_set(name: str, version: str) -> reference_pb2.FeatureSetReference:
    return reference_pb2.FeatureSetReference(name=name, version=version)


def _times(as_of: Time | Sequence[Time] | None, rows: int) -> list[int]:
    if as_of is None:
        return []
    if isinstance(as_of, dt.datetime | int):
        return [microseconds("as_of", as_of)]
    times = [microseconds(f"as_of[{index}]", each) for index, each in enumerate(as_of)]
    if len(times) != rows:
        raise errors.invalid("as_of", f"{len(times)} times", f"must be one, or {rows} as the rows")
    return times


def _check_uuid(field: str, text: str) -> None:
    if not ids.is_uuid(text):
        raise errors.invalid(field, text, "must be a UUID in lower case")
