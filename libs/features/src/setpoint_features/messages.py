"""Definitions as the service takes them, and back from its errors to where they were written."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from setpoint.common.v1 import column_pb2, reference_pb2, value_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.feature.v1 import definition_service_pb2 as pb
from setpoint_columns import DataType, proto, value
from setpoint_features import definitions
from setpoint_runtime import errors

_BOUNDARIES: Final = {
    "inclusive": definition_pb2.BOUNDARY_INCLUSIVE,
    "exclusive": definition_pb2.BOUNDARY_EXCLUSIVE,
}
_KINDS: Final = {"entities": "entity", "views": "view", "feature_sets": "feature set"}
_PLACE: Final = re.compile(
    r"definitions\.(entities|views|feature_sets)\[(\d+)\]\.?((?:(\w+)\[(\d+)\])?.*)", re.DOTALL
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
        views=[_view(each) for each in found.views],
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
    group: Sequence[Any] = getattr(found, kind)
    if int(index) >= len(group):
        return field
    definition = group[int(index)]
    where = definition.where
    parts = getattr(definition, "derived" if part == "transformations" else part or "", ())
    if part and isinstance(parts, Sequence) and int(at) < len(parts):
        where = parts[int(at)].where
    return f"{where}: {_KINDS[kind]} {definition.name}" + (f": {rest}" if rest else "")


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


def _view(view: definitions.FeatureView) -> definition_pb2.FeatureView:
    boundary = _BOUNDARIES.get(view.boundary)
    if boundary is None:
        raise _wrong(view, "boundary", view.boundary, f"must be one of {', '.join(_BOUNDARIES)}")
    return definition_pb2.FeatureView(
        name=view.name,
        entity=view.entity if isinstance(view.entity, str) else view.entity.name,
        fields=[_field(view, each) for each in view.fields],
        ttl_microseconds=0 if view.ttl is None else _microseconds(view, view.ttl),
        boundary=boundary,
        description=view.description,
        owner=view.owner,
        tags=view.tags,
    )


def _microseconds(view: definitions.FeatureView, ttl: timedelta) -> int:
    microseconds = ttl // _MICROSECOND
    if not microseconds:
        # To the service that is "never", which a person would not expect of a short time.
        raise _wrong(view, "ttl", ttl, "must be at least a microsecond, or None for never")
    return microseconds


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
    if field.default is None:
        return None
    is_time = field.dtype is DataType.TIMESTAMP and type(field.default) is int
    if is_time:
        return value_pb2.Value(timestamp_value=int(field.default))
    return _told(
        view,
        f"fields[{field.name}].default",
        field.where,
        lambda: value.to_proto(field.default, "default"),
    )


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
    kinds = {definitions.Entity: "entity", definitions.FeatureView: "view"}
    return f"{where}: {kinds.get(type(definition), 'feature set')} {definition.name}: {path}"
