"""Messages to domain values and back."""

import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

import numpy as np

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint_columns import Column, Columns, DataType, proto, value
from setpoint_feature import aggregate_convert
from setpoint_feature.domain import assemble, cutting, definitions, history, leakage, plan
from setpoint_feature.service import leakage as leakage_service
from setpoint_feature.service import serving, write_stream, writing
from setpoint_rpc import status
from setpoint_runtime import errors

_BOUNDARIES = {
    definition_pb2.BOUNDARY_UNSPECIFIED: definitions.Boundary.INCLUSIVE,
    definition_pb2.BOUNDARY_INCLUSIVE: definitions.Boundary.INCLUSIVE,
    definition_pb2.BOUNDARY_EXCLUSIVE: definitions.Boundary.EXCLUSIVE,
}
_BOUNDARY_NUMBERS = {
    definitions.Boundary.INCLUSIVE: definition_pb2.BOUNDARY_INCLUSIVE,
    definitions.Boundary.EXCLUSIVE: definition_pb2.BOUNDARY_EXCLUSIVE,
}
_EARLIEST = -(1 << 63)
_LATEST = (1 << 63) - 1


def boundary_to_proto(boundary: definitions.Boundary) -> definition_pb2.Boundary.ValueType:
    """Returns the message's name of a boundary."""
    return _BOUNDARY_NUMBERS[boundary]


def specs_from_proto(
    specs: Iterable[reference_pb2.FieldSpec], field: str
) -> tuple[definitions.FieldSpec, ...]:
    """Returns named, typed columns.

    Raises:
        InvalidArgumentError: A type is unknown.
    """
    return tuple(
        definitions.FieldSpec(
            each.name,
            proto.data_type_from_proto(each.dtype, f"{field}[{index}].dtype"),
            each.description,
        )
        for index, each in enumerate(specs)
    )


def spec_to_proto(spec: definitions.FieldSpec) -> reference_pb2.FieldSpec:
    """Returns the message of a named, typed column."""
    return reference_pb2.FieldSpec(
        name=spec.name,
        dtype=proto.data_type_to_proto(spec.dtype),
        description=spec.description,
    )


def entity_from_proto(entity: definition_pb2.Entity) -> definitions.Entity:
    """Returns an entity; what the service sets is ignored.

    Raises:
        InvalidArgumentError: A type is unknown.
    """
    keys = specs_from_proto(entity.keys, "entity.keys")
    return definitions.Entity(
        entity.name, keys, entity.description, owner=entity.owner, tags=dict(entity.tags)
    )


def entity_to_proto(entity: definitions.Entity) -> definition_pb2.Entity:
    """Returns the message of an entity."""
    return definition_pb2.Entity(
        name=entity.name,
        keys=map(spec_to_proto, entity.keys),
        description=entity.description,
        create_time=entity.create_time,
        owner=entity.owner,
        tags=entity.tags,
    )


def view_from_proto(view: definition_pb2.FeatureView) -> definitions.FeatureView:
    """Returns a view; what the service sets is ignored.

    Raises:
        InvalidArgumentError: A type or the boundary is unknown, or a default has another type.
    """
    boundary = _BOUNDARIES.get(view.boundary)
    if boundary is None:
        raise errors.invalid("view.boundary", int(view.boundary), "must be a known boundary")
    return definitions.FeatureView(
        name=view.name,
        entity=view.entity,
        fields=tuple(
            _field_from_proto(each, f"view.fields[{index}]")
            for index, each in enumerate(view.fields)
        ),
        ttl=view.ttl_microseconds,
        boundary=boundary,
        retention=view.retention_microseconds,
        description=view.description,
        owner=view.owner,
        tags=dict(view.tags),
        aggregation=(
            aggregate_convert.from_proto(view.aggregation) if view.HasField("aggregation") else None
        ),
    )


def _field_from_proto(message: definition_pb2.FeatureField, path: str) -> definitions.Field:
    dtype = proto.data_type_from_proto(message.dtype, f"{path}.dtype")
    default: definitions.DefaultValue | None = None
    if message.HasField("default_value"):
        where = f"{path}.default_value"
        default = value.from_proto(message.default_value, where, dtype)
        if default is None:
            rule = "must be absent instead of null"
            raise errors.invalid(where, None, rule, errors.Reason.NULL_REFUSED)
        if dtype in (DataType.FLOAT32, DataType.FLOAT64):
            default = _float_default(float(default), dtype)
    return definitions.Field(
        message.name,
        dtype,
        default,
        message.sensitive,
        message.description,
        dict(message.tags),
        message.finite,
    )


def _float_default(number: float, dtype: DataType) -> float:
    """Returns a default as it will be stored; one out of range becomes infinite, which is refused."""
    if dtype is DataType.FLOAT64 or not math.isfinite(number):
        return number
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def view_to_proto(view: definitions.FeatureView) -> definition_pb2.FeatureView:
    """Returns the message of a view."""
    message = definition_pb2.FeatureView(
        name=view.name,
        version=view.version,
        entity=view.entity,
        ttl_microseconds=view.ttl,
        boundary=_BOUNDARY_NUMBERS[view.boundary],
        retention_microseconds=view.retention,
        description=view.description,
        owner=view.owner,
        create_time=view.create_time,
        tags=view.tags,
    )
    if view.aggregation is not None:
        message.aggregation.CopyFrom(aggregate_convert.to_proto(view.aggregation))
    for each in view.fields:
        field = message.fields.add(
            name=each.name,
            dtype=proto.data_type_to_proto(each.dtype),
            sensitive=each.sensitive,
            description=each.description,
            tags=each.tags,
            finite=each.finite,
        )
        if each.default is None:
            continue
        if each.dtype is DataType.TIMESTAMP and isinstance(each.default, int):
            field.default_value.timestamp_value = each.default
        else:
            field.default_value.CopyFrom(value.to_proto(each.default))
    return message


def feature_set_from_proto(message: definition_pb2.FeatureSet) -> definitions.FeatureSet:
    """Returns a feature set; what the service sets is ignored.

    Raises:
        InvalidArgumentError: A type is unknown.
    """
    return definitions.FeatureSet(
        name=message.name,
        features=tuple(
            definitions.FeatureReference(each.view, each.field, each.alias, dict(each.key_columns))
            for each in message.features
        ),
        request_fields=specs_from_proto(message.request_fields, "feature_set.request_fields"),
        description=message.description,
        owner=message.owner,
        tags=dict(message.tags),
        transformations=tuple(
            definitions.Transformation(
                each.name, each.function, dict(each.inputs), source_hash=each.source_hash
            )
            for each in message.transformations
        ),
    )


def feature_set_to_proto(feature_set: definitions.FeatureSet) -> definition_pb2.FeatureSet:
    """Returns the message of a feature set."""
    message = definition_pb2.FeatureSet(
        name=feature_set.name,
        version=feature_set.version,
        request_fields=map(spec_to_proto, feature_set.request_fields),
        description=feature_set.description,
        create_time=feature_set.create_time,
        owner=feature_set.owner,
        tags=feature_set.tags,
    )
    for each in feature_set.features:
        message.features.add(
            view=each.view,
            field=each.field,
            alias=each.alias,
            key_columns=each.key_columns,
            view_version=each.view_version,
            dtype=proto.data_type_to_proto(each.dtype) if each.dtype is not None else 0,
        )
    for derived in feature_set.transformations:
        message.transformations.add(
            name=derived.name,
            function=derived.function,
            inputs=derived.inputs,
            dtype=proto.data_type_to_proto(derived.dtype) if derived.dtype is not None else 0,
            source_hash=derived.source_hash,
            source=derived.source,
        )
    return message


def reference_to_proto(feature_set: definitions.FeatureSet) -> reference_pb2.FeatureSetReference:
    """Returns the reference to an exact feature set."""
    return reference_pb2.FeatureSetReference(name=feature_set.name, version=feature_set.version)


def online_to_proto(
    answer: serving.Answer, *, shared_event_times: bool
) -> feature_service_pb2.GetOnlineFeaturesResponse:
    """Returns the answer of an online read; shared event times are sent once for all columns that have them."""
    served = answer.served
    event_times: Sequence[bytes] = served.event_times
    positions: Sequence[int] = ()
    if shared_event_times:
        event_times, positions = _shared(event_times)
    response = feature_service_pb2.GetOnlineFeaturesResponse(
        feature_set=reference_to_proto(answer.feature_set),
        statuses=served.statuses,
        event_times=event_times,
        history_views=answer.history_views,
        event_time_positions=positions,
    )
    proto.fill(response.features, served.features)
    return response


def _shared(parts: Sequence[bytes]) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """Returns the different ones among some bytes, and for each of them its position there."""
    places: dict[bytes, int] = {}
    positions = tuple(places.setdefault(each, len(places)) for each in parts)
    return tuple(places), positions


def order_from_proto(request: feature_service_pb2.WriteFeaturesRequest) -> writing.Order:
    """Returns a batch.

    Raises:
        InvalidArgumentError: The rows break the format of columns.
    """
    rows = columns_from_proto(request.rows, "rows")
    return writing.Order(request.batch_id, request.view, rows, request.keep_good_rows)


def written_to_proto(result: writing.WriteResult) -> feature_service_pb2.WriteFeaturesResponse:
    """Returns what became of a batch."""
    return feature_service_pb2.WriteFeaturesResponse(
        rows_written=result.rows_written,
        online_updated=result.online_updated,
        online_applied=result.online_applied,
        replayed=result.replayed,
        rows_refused=result.refused.rows,
        row_errors=[
            feature_service_pb2.RowError(
                row=each.row,
                column=each.column,
                value=each.value,
                rule=each.rule,
                reason=each.reason.value,
            )
            for each in result.refused.errors
        ],
    )


async def batches_from_proto(
    requests: AsyncIterator[feature_service_pb2.StreamFeaturesRequest],
) -> AsyncIterator[write_stream.Numbered]:
    """Yields the batches of a stream; one that cannot be read is an error in its place."""
    async for request in requests:
        order: writing.Order | errors.SetpointError
        try:
            order = order_from_proto(request.batch)
        except errors.InvalidArgumentError as error:
            order = error
        yield write_stream.Numbered(request.sequence, order)


def outcome_to_proto(outcome: write_stream.Outcome) -> feature_service_pb2.StreamFeaturesResponse:
    """Returns the answer to one batch of a stream."""
    result = outcome.result
    if isinstance(result, errors.SetpointError):
        return feature_service_pb2.StreamFeaturesResponse(
            sequence=outcome.number, failure=status.to_failure(result)
        )
    return feature_service_pb2.StreamFeaturesResponse(
        sequence=outcome.number, written=written_to_proto(result)
    )


def historical_to_proto(
    feature_set: definitions.FeatureSet,
    served: assemble.Served,
    piece: int,
    max_bytes: int,
    *,
    shared_event_times: bool,
) -> Iterator[feature_service_pb2.GetHistoricalFeaturesResponse]:
    """Yields the answer of one piece of a spine, in as many messages as its size asks for."""
    rows = served.features.rows
    event_times: Sequence[bytes] = served.event_times
    positions: Sequence[int] = ()
    if shared_event_times:
        event_times, positions = _shared(event_times)
    cuts = cutting.cuts(served.features, len(served.statuses) + len(event_times) * 8, max_bytes)
    for start, stop in cuts or [(0, 0)]:
        response = feature_service_pb2.GetHistoricalFeaturesResponse(
            feature_set=reference_to_proto(feature_set),
            statuses=[each[start:stop] for each in served.statuses],
            event_times=[each[start * 8 : stop * 8] for each in event_times],
            piece=piece,
            piece_complete=stop == rows,
            event_time_positions=positions,
        )
        proto.fill(response.features, served.features.slice(start, stop))
        yield response


def rows_to_proto(
    view: plan.CompiledView, page: history.NamedRows, max_bytes: int
) -> Iterator[feature_service_pb2.ReadFeatureViewResponse]:
    """Yields stored rows, in as many messages as their size asks for."""
    rows = page.rows
    fields = view.layout.unpack(rows.data, rows.starts, range(len(view.view.fields)))
    columns = Columns(
        len(rows),
        [
            *view.codec.decode(page.keys),
            Column(definitions.EVENT_TIME, DataType.TIMESTAMP, rows.event_times),
            Column(definitions.CREATED_TIME, DataType.TIMESTAMP, rows.created_times),
            *fields,
        ],
    )
    for start, stop in cutting.cuts(columns, 0, max_bytes) or [(0, 0)]:
        yield feature_service_pb2.ReadFeatureViewResponse(
            rows=proto.to_proto(columns.slice(start, stop))
        )


def range_from_proto(
    request: feature_service_pb2.ReadFeatureViewRequest,
) -> tuple[int | None, int, int]:
    """Returns first and last event time (half-open) and the time at which rows must be known.

    No first event time means all rows that there are.

    Raises:
        InvalidArgumentError: The range ends before it starts.
    """
    known_at = request.known_at_time or _LATEST
    if not request.HasField("range"):
        return None, _LATEST, known_at
    start, end = request.range.start_time, request.range.end_time
    if end < start:
        raise errors.invalid("range.end_time", end, f"must not be before start_time {start}")
    return start, end, known_at


def claims_from_proto(
    columns: Iterable[feature_service_pb2.LeakageColumn],
) -> list[leakage_service.Claim]:
    """Returns what the columns of a table claim to hold."""
    return [
        leakage_service.Claim(each.column, each.view, each.field, dict(each.key_columns))
        for each in columns
    ]


def findings_to_proto(
    claims: Sequence[leakage_service.Claim], findings: Sequence[leakage.Finding]
) -> feature_service_pb2.CheckLeakageResponse:
    """Returns the verdicts on the columns of a table."""
    response = feature_service_pb2.CheckLeakageResponse()
    for claim, finding in zip(claims, findings, strict=True):
        response.findings.add(
            column=claim.column,
            values=finding.values,
            leaked=finding.leaked,
            rows=finding.rows,
            message=finding.message,
        )
    return response


def columns_from_proto(message: column_pb2.ColumnBatch, field: str) -> Columns:
    """Returns the checked columns of a message.

    Raises:
        InvalidArgumentError: The message breaks the format.
    """
    return proto.from_proto(message, field)
