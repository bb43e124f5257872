"""Definitions as the service takes them, and back from its errors to where they were written."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from setpoint.common.v1 import column_pb2, reference_pb2, value_pb2
from setpoint.feature.v1 import aggregation_pb2, definition_pb2
from setpoint.feature.v1 import definition_service_pb2 as pb
from setpoint_columns import DataType, proto, value
from setpoint_features import definitions
from setpoint_runtime import errors

_BOUNDARIES: Final = {
    "inclusive": definition_pb2.BOUNDARY_INCLUSIVE,
    "exclusive": definition_pb2.BOUNDARY_EXCLUSIVE,
}
_FUNCTIONS: Final = {
    name.removeprefix("AGGREGATE_FUNCTION_").lower(): number
    for name, number in aggregation_pb2.AggregateFunction.items()
    if number
}
_KINDS: Final = {"entities": "entity", "views": "view", "feature_sets": "feature set"}
_PLACE: Final = re.compile(
    r"definitions\.(entities|views|feature_sets)\[(\d+)\]\.?((?:(?:aggregation\.)?(\w+)\[(\d+)\])?.*)",
    re.DOTALL,
)
_MICROSECOND: Final = timedelta(microseconds=1)
_T = TypeVar("_T")


def to_message(found: definitions.Definitions) -> pb.Definitions:
    """Returns definitions as a message.

    Raises:
        InvalidArgumentError: Something is not what its class declares; names file, line, definition and field.
    """
    return pb.Definitions(
        entities=[_entity(each) for each in found.entities],
        views=[_view(each) for each in _views(found)],
        feature_sets=[_feature_set(each) for each in found.feature_sets],
    )


def located(
    found: definitions.Definitions, violations: Sequence[errors.FieldViolation]
) -> list[errors.FieldViolation]:
    """Returns what the service says is wrong with file, line and name in place of numbers."""
    return [dataclasses.replace(each, field=_located(found, each.field)) for each in violations]


def _located(found: definitions.Definitions, field: str) -> str:
    match = _PLACE.fullmatch(field)
    if match is None:
        return field
    kind, index, rest, part, at = match.groups()
    group: Sequence[Any] = _views(found) if kind == "views" else getattr(found, kind)
    if int(index) >= len(group):
        return field
    definition = group[int(index)]
    where = definition.where
    parts = getattr(definition, "derived" if part == "transformations" else part or "", ())
    if part and isinstance(parts, Sequence) and int(at) < len(parts):
        where = parts[int(at)].where
    return f"{where}: {_KINDS[kind]} {definition.name}" + (f": {rest}" if rest else "")


def _views(found: definitions.Definitions) -> list[definitions.View]:
    return [*found.views, *found.aggregate_views]


def _entity(entity: definitions.Entity) -> definition_pb2.Entity:
    return definition_pb2.Entity(
        name=entity.name,
        keys=[
            reference_pb2.FieldSpec(name=name, dtype=_dtype(entity, f"keys[{name}]", dtype))
            for name, dtype in entity.keys.items()
        ],
        description=entity.description,
        owner=entity.owner,
        tags=entity.tags,
    )


def _view(view: definitions.View) -> definition_pb2.FeatureView:
    boundary = _BOUNDARIES.get(view.boundary)
    if boundary is None:
        raise _wrong(view, "boundary", view.boundary, f"must be one of {', '.join(_BOUNDARIES)}")
    message = definition_pb2.FeatureView(
        name=view.name,
        entity=_name(view.entity),
        boundary=boundary,
        description=view.description,
        owner=view.owner,
        tags=view.tags,
    )
    if isinstance(view, definitions.AggregateView):
        message.aggregation.source = _name(view.source)
        message.aggregation.group_by.update(view.group_by)
        message.aggregation.fields.extend(_aggregate(view, each) for each in view.fields)
    else:
        message.ttl_microseconds = _microseconds(view, "ttl", view.ttl, view.where)
        message.retention_microseconds = _microseconds(
            view, "retention", view.retention, view.where
        )
        message.fields.extend(_field(view, each) for each in view.fields)
    return message


def _name(named: definitions.Entity | definitions.FeatureView | str) -> str:
    return named if isinstance(named, str) else named.name


def _microseconds(
    view: definitions.View, path: str, length: timedelta | None, where: definitions.Location
) -> int:
    if length is None:
        return 0
    microseconds = length // _MICROSECOND
    if not microseconds:
        # To the service that says nothing, which a person would not expect of a short time.
        raise _wrong(view, path, length, "must be at least a microsecond, or None", where)
    return microseconds


def _aggregate(
    view: definitions.AggregateView, each: definitions.Aggregate
) -> aggregation_pb2.AggregateField:
    path = f"fields[{each.name}]"
    function = _FUNCTIONS.get(each.function)
    if function is None:
        rule = f"must be one of {', '.join(_FUNCTIONS)}"
        raise _wrong(view, f"{path}.function", each.function, rule, each.where)
    message = aggregation_pb2.AggregateField(
        name=each.name,
        function=function,
        field=each.of,
        window_microseconds=_microseconds(view, f"{path}.window", each.window, each.where),
        hop_microseconds=_microseconds(view, f"{path}.hop", each.hop, each.where),
        n=each.n,
        default_value=_value(view, f"{path}.default", each.default, each.where),
        sensitive=each.sensitive,
        description=each.description,
        tags=each.tags,
    )
    if each.condition is not None:
        message.where.field, equals = each.condition
        found = _value(view, f"{path}.condition", equals, each.where)
        if found is not None:
            message.where.equals.CopyFrom(found)
    return message


def _field(view: definitions.FeatureView, field: definitions.Field) -> definition_pb2.FeatureField:
    path = f"fields[{field.name}]"
    return definition_pb2.FeatureField(
        name=field.name,
        dtype=_dtype(view, f"{path}.dtype", field.dtype, field.where),
        default_value=_default(view, field),
        sensitive=field.sensitive,
        finite=field.finite,
        description=field.description,
        tags=field.tags,
    )


def _default(view: definitions.FeatureView, field: definitions.Field) -> value_pb2.Value | None:
    if field.dtype is DataType.TIMESTAMP and type(field.default) is int:
        return value_pb2.Value(timestamp_value=field.default)
    return _value(view, f"fields[{field.name}].default", field.default, field.where)


def _value(
    view: definitions.View, path: str, found: object, where: definitions.Location
) -> value_pb2.Value | None:
    if found is None:
        return None
    return _told(view, path, where, lambda: value.to_proto(found, "value"))


def _feature_set(found: definitions.FeatureSet) -> definition_pb2.FeatureSet:
    return definition_pb2.FeatureSet(
        name=found.name,
        features=[
            definition_pb2.FeatureReference(
                view=each.view, field=each.field, alias=each.alias, key_columns=each.keys
            )
            for each in found.features
        ],
        request_fields=[
            reference_pb2.FieldSpec(
                name=each.name,
                dtype=_dtype(found, f"request_fields[{each.name}].dtype", each.dtype, each.where),
                description=each.description,
            )
            for each in found.request_fields
        ],
        description=found.description,
        owner=found.owner,
        tags=found.tags,
        transformations=[_derived(found, each) for each in found.derived],
    )


def _derived(
    found: definitions.FeatureSet, derived: definitions.Derived
) -> definition_pb2.Transformation:
    def made() -> definition_pb2.Transformation:
        return definition_pb2.Transformation(
            name=derived.name,
            function=derived.function_name,
            inputs=derived.inputs,
            source_hash=derived.source_hash,
        )

    return _told(found, f"derived[{derived.name}]", derived.where, made)


def _dtype(
    definition: definitions.Definition,
    path: str,
    dtype: DataType,
    where: definitions.Location | None = None,
) -> column_pb2.DataType.ValueType:
    if not isinstance(dtype, DataType):
        raise _wrong(definition, path, dtype, "must be a DataType", where)
    number: column_pb2.DataType.ValueType = proto.data_type_to_proto(dtype)
    return number


def _told(
    definition: definitions.Definition,
    path: str,
    where: definitions.Location,
    make: Callable[[], _T],
) -> _T:
    try:
        return make()
    except errors.InvalidArgumentError as error:
        violation = error.violations[0]
        place = _place(definition, f"{path}: {violation.field}", where)
        raise errors.InvalidArgumentError(
            error.reason,
            f"{place}: {violation.description}",
            violations=[errors.FieldViolation(place, violation.description)],
        ) from None


def _wrong(
    definition: definitions.Definition,
    path: str,
    found: object,
    rule: str,
    where: definitions.Location | None = None,
) -> errors.InvalidArgumentError:
    return errors.invalid(_place(definition, path, where or definition.where), found, rule)


def _place(definition: definitions.Definition, path: str, where: definitions.Location) -> str:
    is_view = isinstance(definition, definitions.View)
    is_entity = isinstance(definition, definitions.Entity)
    kind = "view" if is_view else "entity" if is_entity else "feature set"
    return f"{where}: {kind} {definition.name}: {path}"
