"""Aggregations to domain values and back."""

from setpoint.common.v1 import value_pb2
from setpoint.feature.v1 import aggregation_pb2
from setpoint_columns import value
from setpoint_feature.domain import aggregation
from setpoint_runtime import errors

_PATH = "view.aggregation"
_FUNCTIONS = {
    aggregation_pb2.AGGREGATE_FUNCTION_COUNT: aggregation.Function.COUNT,
    aggregation_pb2.AGGREGATE_FUNCTION_SUM: aggregation.Function.SUM,
    aggregation_pb2.AGGREGATE_FUNCTION_MEAN: aggregation.Function.MEAN,
    aggregation_pb2.AGGREGATE_FUNCTION_MIN: aggregation.Function.MIN,
    aggregation_pb2.AGGREGATE_FUNCTION_MAX: aggregation.Function.MAX,
    aggregation_pb2.AGGREGATE_FUNCTION_SHARE: aggregation.Function.SHARE,
    aggregation_pb2.AGGREGATE_FUNCTION_LAST: aggregation.Function.LAST,
    aggregation_pb2.AGGREGATE_FUNCTION_DISTINCT: aggregation.Function.DISTINCT,
}
_NUMBERS = {function: number for number, function in _FUNCTIONS.items()}


def from_proto(message: aggregation_pb2.Aggregation) -> aggregation.Aggregation:
    """Returns an aggregation; what the service sets is ignored.

    Raises:
        InvalidArgumentError: A function is unknown, or a value is none.
    """
    return aggregation.Aggregation(
        source=message.source,
        fields=tuple(
            _field_from_proto(each, f"{_PATH}.fields[{index}]")
            for index, each in enumerate(message.fields)
        ),
        group_by=dict(message.group_by),
    )


def _field_from_proto(
    message: aggregation_pb2.AggregateField, path: str
) -> aggregation.AggregateField:
    function = _FUNCTIONS.get(message.function)
    if function is None:
        rule = "must be a known function"
        raise errors.invalid(f"{path}.function", int(message.function), rule)
    where = None
    if message.HasField("where"):
        equals = _value(message.where.equals, f"{path}.where.equals")
        where = aggregation.Condition(message.where.field, equals)
    default = None
    if message.HasField("default_value"):
        default = _value(message.default_value, f"{path}.default_value")
    return aggregation.AggregateField(
        name=message.name,
        function=function,
        field=message.field,
        window=message.window_microseconds,
        hop=message.hop_microseconds,
        where=where,
        n=message.n,
        default=default,
        sensitive=message.sensitive,
        description=message.description,
        tags=dict(message.tags),
    )


def _value(message: value_pb2.Value, path: str) -> bool | int | float | str:
    found = value.from_proto(message, path)
    if found is None:
        rule = "must be a value, not null"
        raise errors.invalid(path, None, rule, errors.Reason.NULL_REFUSED)
    return found  # type: ignore[no-any-return]  # it is one of the kinds of the message.


def to_proto(wanted: aggregation.Aggregation) -> aggregation_pb2.Aggregation:
    """Returns the message of an aggregation."""
    message = aggregation_pb2.Aggregation(
        source=wanted.source, source_version=wanted.source_version, group_by=wanted.group_by
    )
    for each in wanted.fields:
        field = message.fields.add(
            name=each.name,
            function=_NUMBERS[each.function],
            field=each.field,
            window_microseconds=each.window,
            hop_microseconds=each.hop,
            n=each.n,
            sensitive=each.sensitive,
            description=each.description,
            tags=each.tags,
        )
        if each.where is not None:
            field.where.field = each.where.field
            field.where.equals.CopyFrom(value.to_proto(each.where.equals))
        if each.default is not None:
            field.default_value.CopyFrom(value.to_proto(each.default))
    return message
