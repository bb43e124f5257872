"""Messages of the audit service to domain values and back."""

from collections.abc import Sequence

from setpoint.common.v1 import reference_pb2, value_pb2
from setpoint.feature.v1 import audit_service_pb2 as pb
from setpoint_columns import Column, DataType, proto, value
from setpoint_feature import convert
from setpoint_feature.domain import assemble, definitions, leakage, skew, visibility
from setpoint_feature.domain import explaining as domain
from setpoint_feature.service import explaining, leaks
from setpoint_runtime import errors


def question_from_proto(request: pb.ExplainFeatureRequest) -> explaining.Question:
    """Returns what is asked about.

    Raises:
        InvalidArgumentError: Neither a feature set nor a view is named, or both are.
    """
    by_set, by_view = bool(request.feature_set.name), bool(request.view)
    if by_set == by_view:
        rule = "must be given together with a column, or else a view and a field"
        raise errors.invalid("feature_set", request.feature_set.name, rule)
    return explaining.Question(
        feature_set=request.feature_set.name,
        version=request.feature_set.version,
        column=request.column,
        view=request.view,
        view_version=request.view_version,
        field=request.field,
        time=request.as_of_time,
        arrival=not request.as_of_event_time,
    )


def explained_to_proto(
    found: explaining.Explained, places: range, tokens: tuple[str, str]
) -> pb.ExplainFeatureResponse:
    """Returns an explanation with some of its candidates.

    Args:
        found: The explanation.
        places: Which candidates.
        tokens: Of the pages with smaller and with greater candidates.
    """
    view, dtype = found.view.view, found.view.view.fields[found.field].dtype
    response = pb.ExplainFeatureResponse(
        view=view.name,
        view_version=view.version,
        field=view.fields[found.field].name,
        dtype=proto.data_type_to_proto(dtype),
        as_of_time=found.time,
        ttl_microseconds=view.ttl,
        boundary=convert.boundary_to_proto(view.boundary),
        value=_served_value(found.served),
        status=found.served.statuses[0][0],  # type: ignore[arg-type]  # equal numbers
        candidates=_candidates(found, places),
        counts=[
            pb.VerdictCount(verdict=int(verdict), candidates=count)  # type: ignore[arg-type]  # equal numbers
            for verdict, count in sorted(found.explanation.counts().items())
        ],
        next_page_token=tokens[0],
        previous_page_token=tokens[1],
        online=_online_to_proto(found.online, dtype),
    )
    event_time = int.from_bytes(found.served.event_times[0], "little", signed=True)
    if event_time != visibility.NO_TIME:
        response.event_time = event_time
    return response


def _candidates(found: explaining.Explained, places: range) -> list[pb.Candidate]:
    order = found.explanation.order[places.start : places.stop]
    rows = found.past.rows
    (column,) = found.past.view.layout.unpack(rows.data, rows.starts[order], (found.field,))
    return [
        pb.Candidate(
            event_time=int(rows.event_times[position]),
            created_time=int(rows.created_times[position]),
            sequence=int(rows.sequences[position]),
            value=_value(column, index),
            verdict=int(found.explanation.verdicts[place]),  # type: ignore[arg-type]  # equal numbers
            reason=domain.reason(found.past, found.explanation, place, found.time),
        )
        for index, (place, position) in enumerate(zip(places, order.tolist(), strict=True))
    ]


def _online_to_proto(copy: explaining.Copy, dtype: DataType) -> pb.OnlineCopy:
    message = pb.OnlineCopy(problem=copy.problem, is_greatest=copy.is_greatest)
    if copy.served is not None:
        message.served_value.CopyFrom(_served_value(copy.served))
        message.served_status = copy.served.statuses[0][0]  # type: ignore[assignment]  # equal numbers
    if copy.place is not None:
        message.is_found = True
        message.event_time, message.created_time, message.sequence = copy.place
        message.value.CopyFrom(to_value(copy.value, dtype))
    return message


def _served_value(served: assemble.Served) -> value_pb2.Value:
    return _value(served.features.columns[0], 0)


def _value(column: Column, row: int) -> value_pb2.Value:
    return to_value(column.item(row), column.dtype)


def to_value(item: object, dtype: DataType) -> value_pb2.Value:
    """Returns the message of a single value."""
    if dtype is DataType.TIMESTAMP and isinstance(item, int):
        return value_pb2.Value(timestamp_value=item)
    return value.to_proto(item)


def skew_to_proto(found: skew.Totals) -> pb.FeatureSetSkew:
    """Returns what replays of a feature set have found."""
    message = pb.FeatureSetSkew(
        feature_set=reference_pb2.FeatureSetReference(
            name=found.feature_set, version=found.version
        ),
        predictions=found.predictions,
        differing_predictions=found.differing_predictions,
        removed_predictions=found.removed_predictions,
        values=found.values,
    )
    for (feature, cause), count in sorted(found.differences.items()):
        examples = [
            each for each in found.examples if (each.feature, each.cause) == (feature, cause)
        ]
        message.differences.add(
            feature=feature,
            cause=int(cause),
            values=count,
            examples=_examples(examples),
        )
    return message


def _examples(examples: Sequence[skew.Example]) -> list[pb.SkewExample]:
    messages = []
    for each in examples:
        message = pb.SkewExample(
            prediction_id=each.prediction_id,
            as_of_time=each.time,
            served=each.served,
            known=each.known,
            served_status=each.served_at.status,  # type: ignore[arg-type]  # equal numbers
            known_status=each.known_at.status,  # type: ignore[arg-type]  # equal numbers
            note=each.note,
        )
        if each.served_at.event_time != visibility.NO_TIME:
            message.served_event_time = each.served_at.event_time
        if each.known_at.event_time != visibility.NO_TIME:
            message.known_event_time = each.known_at.event_time
        messages.append(message)
    return messages


def leak_ask_from_proto(request: pb.MeasureLeaksRequest) -> leaks.Ask:
    """Returns what a table is judged by."""
    return leaks.Ask(
        feature_set=request.feature_set.name,
        version=request.feature_set.version,
        claims=convert.claims_from_proto(request.columns),
        time_column=request.time_column or definitions.EVENT_TIME,
        arrival=not request.as_of_event_time,
        find_columns=request.find_columns,
    )


def leaks_to_proto(
    found: leaks.Measurement, columns: Sequence[str], time_column: str
) -> pb.MeasureLeaksResponse:
    """Returns the findings on a table with some columns."""
    keys = {
        target.key_columns.get(key.name, key.name)
        for target in found.targets
        for key in target.view.view.keys
    }
    judged = {target.column for target in found.targets} | keys | {time_column}
    return pb.MeasureLeaksResponse(
        rows=found.rows,
        findings=[_leak_finding(target) for target in found.targets],
        unjudged_columns=[name for name in columns if name not in judged],
    )


def _leak_finding(target: leaks.Target) -> pb.LeakFinding:
    found, view = target.measured, target.view.view
    message = pb.LeakFinding(
        column=target.column,
        origin=int(target.origin),  # type: ignore[arg-type]  # equal numbers
        view=view.name,
        view_version=view.version,
        field=view.fields[target.field].name,
        values=found.values,
        leaked=found.leaked,
        rows=found.first,
        at_boundary=found.at_boundary,
        message=leakage.message(target.name, found),
    )
    if target.origin is leaks.Origin.FOUND:
        message.held_share = target.held_share
    for cause, each in sorted(found.causes.items()):
        message.causes.add(
            cause=int(cause),
            values=each.values,
            shortest_microseconds=each.shortest,
            longest_microseconds=each.longest,
        )
    for join, values in found.joins.most_common():
        if values:
            message.joins.add(join=int(join), values=values)
    return message
