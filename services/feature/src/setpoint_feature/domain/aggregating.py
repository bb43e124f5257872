"""What a registration makes of an aggregate view; each error names the field, the value and the rule."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from setpoint_columns import DataType
from setpoint_feature.domain import aggregation, catalog, checks, definitions, retention, wording
from setpoint_runtime import errors

_PATH: Final = "view.aggregation"
_Function = aggregation.Function
_NUMBERS: Final = frozenset({DataType.INT32, DataType.INT64, DataType.FLOAT32, DataType.FLOAT64})
_ORDERED: Final = _NUMBERS | {DataType.TIMESTAMP}
_TESTED: Final = frozenset({DataType.BOOL, DataType.INT32, DataType.INT64, DataType.STRING})
_ANY: Final = frozenset(DataType)
_TAKEN: Final = {
    _Function.COUNT: _ANY,
    _Function.SUM: _NUMBERS,
    _Function.MEAN: _NUMBERS,
    _Function.MIN: _ORDERED,
    _Function.MAX: _ORDERED,
    _Function.SHARE: _ANY,
    _Function.LAST: _ANY - {DataType.STRING},
    _Function.DISTINCT: _ANY,
}


def bind(
    known: catalog.Catalog, view: definitions.FeatureView, wanted: aggregation.Aggregation
) -> definitions.FeatureView:
    """Returns an aggregate view bound to the latest version of its source, its fields filled in.

    Raises:
        InvalidArgumentError: Names a bad field.
    """
    if view.ttl:
        rule = "must be 0: the windows say how old an event may be"
        raise errors.invalid("view.ttl_microseconds", view.ttl, rule)
    source = _source(known, wanted.source)
    group_by = _group_by(view, source, wanted.group_by)
    if not 1 <= len(wanted.fields) <= aggregation.MAX_AGGREGATES:
        rule = f"must hold 1 to {aggregation.MAX_AGGREGATES} fields"
        raise errors.invalid(f"{_PATH}.fields", f"{len(wanted.fields)} fields", rule)
    fields = tuple(
        _field(source, each, f"{_PATH}.fields[{index}]") for index, each in enumerate(wanted.fields)
    )
    bound = dataclasses.replace(
        wanted, source_version=source.version, group_by=group_by, fields=fields
    )
    columns = _columns(source, fields)
    if view.fields and _shapes(view.fields) != _shapes(columns):
        rule = "must be absent: the fields of an aggregate view follow from its aggregation"
        raise errors.invalid("view.fields", f"{len(view.fields)} fields", rule)
    return dataclasses.replace(view, fields=columns, aggregation=bound)


def check_complete(known: catalog.Catalog, view: definitions.FeatureView, now: int) -> None:
    """Refuses an aggregate view some of whose windows reach back to rows that are gone.

    Once it is registered, its source loses no row any more.

    Raises:
        FailedPreconditionError: HISTORY_REMOVED, names each such window and from when on it is complete.
    """
    wanted = view.aggregation
    if wanted is None:
        return
    retained = known.retained_of(wanted.source, wanted.source_version)
    source = known.views.find(wanted.source, wanted.source_version)
    if retained is None or source is None:
        return
    from_times = [retention.windows_from(source, (each,), retained) for each in wanted.fields]
    if max(from_times) <= now:
        return
    told = f"reaches back to rows of view {source.name} that retention has removed; it is complete from"
    raise errors.FailedPreconditionError(
        errors.Reason.HISTORY_REMOVED,
        f"view {view.name!r} {told} {wording.moment(max(from_times))} on; take shorter windows, or take the "
        f"retention off {source.name} and register the view then",
        violations=[
            errors.FieldViolation(
                f"{_PATH}.fields[{index}].window_microseconds", f"{told} {wording.moment(time)} on"
            )
            for index, time in enumerate(from_times)
            if time > now
        ],
        metadata=retention.metadata(view.name, now, max(from_times)) | {"source": source.name},
    )


def refuse(view: definitions.FeatureView, field: str) -> None:
    """Refuses to use an aggregate view for what needs stored rows.

    Raises:
        InvalidArgumentError: The view is computed.
    """
    if view.aggregation is not None:
        raise errors.invalid(
            field,
            view.name,
            f"must have rows of its own; this view is computed from those of "
            f"{view.aggregation.source}",
        )


def _shapes(fields: tuple[definitions.Field, ...]) -> list[tuple[str, DataType]]:
    return [(each.name, each.dtype) for each in fields]


def _source(known: catalog.Catalog, name: str) -> definitions.FeatureView:
    source = known.views.latest.get(name)
    if source is None:
        rule = "must be a registered feature view"
        raise errors.invalid(f"{_PATH}.source", name, rule, errors.Reason.FEATURE_VIEW_NOT_FOUND)
    if source.aggregation is not None:
        raise errors.invalid(f"{_PATH}.source", name, "must not be an aggregate view itself")
    return source


def _group_by(
    view: definitions.FeatureView, source: definitions.FeatureView, group_by: Mapping[str, str]
) -> dict[str, str]:
    keys = {key.name: key for key in view.keys}
    for name in group_by:
        if name not in keys:
            rule = f"must be a key of the entity {view.entity}"
            raise errors.invalid(f"{_PATH}.group_by", name, rule, errors.Reason.UNKNOWN_FIELD)
    types = {key.name: key.dtype for key in source.keys}
    types |= {each.name: each.dtype for each in source.fields}
    for key in view.keys:
        path, column = f"{_PATH}.group_by[{key.name}]", group_by.get(key.name, key.name)
        dtype = types.get(column)
        if dtype is None:
            rule = f"must be a field or key of the view {source.name}"
            raise errors.invalid(path, column, rule, errors.Reason.UNKNOWN_FIELD)
        both = definitions.INTEGER_KEY_TYPES
        if dtype is not key.dtype and not (dtype in both and key.dtype in both):
            rule = f"must be {key.dtype.name} as the key is, not {dtype.name}"
            raise errors.invalid(path, column, rule, errors.Reason.WRONG_TYPE)
    return {key: column for key, column in sorted(group_by.items()) if key != column}


def _field(
    source: definitions.FeatureView, wanted: aggregation.AggregateField, path: str
) -> aggregation.AggregateField:
    checks.check_column(f"{path}.name", wanted.name)
    _check_field(source, wanted, path)
    if wanted.where is not None:
        _check_where(source, wanted.where, f"{path}.where")
    elif wanted.function is _Function.SHARE:
        rule = "must be given: the share is of the events that meet it"
        raise errors.invalid(f"{path}.where", None, rule, errors.Reason.MISSING_FIELD)
    hop = _hop(wanted, path)
    if wanted.function is not _Function.LAST:
        if wanted.n:
            raise errors.invalid(f"{path}.n", wanted.n, "must be absent: it is for LAST alone")
        return dataclasses.replace(wanted, hop=hop)
    if not 0 <= wanted.n <= aggregation.MAX_LAST:
        rule = f"must be 1 to {aggregation.MAX_LAST}"
        raise errors.invalid(f"{path}.n", wanted.n, rule)
    return dataclasses.replace(wanted, hop=hop, n=wanted.n or 1)


def _check_field(
    source: definitions.FeatureView, wanted: aggregation.AggregateField, path: str
) -> None:
    function = wanted.function
    if not wanted.field:
        if function not in (_Function.COUNT, _Function.SHARE):
            rule = f"must name what {function.name} is computed of"
            raise errors.invalid(f"{path}.field", "", rule, errors.Reason.MISSING_FIELD)
        return
    if function is _Function.SHARE:
        rule = "must be absent: the condition says what the share is of"
        raise errors.invalid(f"{path}.field", wanted.field, rule)
    dtype = _type_of(source, wanted.field, f"{path}.field")
    if dtype not in _TAKEN[function]:
        some = ", ".join(sorted(each.name for each in _TAKEN[function]))
        rule = f"must be of a type that {function.name} takes ({some}), not {dtype.name}"
        raise errors.invalid(f"{path}.field", wanted.field, rule, errors.Reason.WRONG_TYPE)


def _type_of(source: definitions.FeatureView, name: str, path: str) -> DataType:
    position = source.field_index(name)
    if position is None:
        rule = f"must be a field of the view {source.name}"
        raise errors.invalid(path, name, rule, errors.Reason.UNKNOWN_FIELD)
    return source.fields[position].dtype


def _check_where(source: definitions.FeatureView, where: aggregation.Condition, path: str) -> None:
    dtype = _type_of(source, where.field, f"{path}.field")
    if dtype not in _TESTED:
        some = ", ".join(sorted(each.name for each in _TESTED))
        rule = f"must be of a type that is compared ({some}), not {dtype.name}"
        raise errors.invalid(f"{path}.field", where.field, rule, errors.Reason.WRONG_TYPE)
    checks.check_value(f"{path}.equals", where.equals, dtype)


def _hop(wanted: aggregation.AggregateField, path: str) -> int:
    window = f"{path}.window_microseconds"
    if not 1 <= wanted.window <= aggregation.MAX_WINDOW:
        rule = f"must be 1 to {aggregation.MAX_WINDOW} (ten years)"
        raise errors.invalid(window, wanted.window, rule)
    hop = wanted.hop or aggregation.default_hop(wanted.window)
    if hop < aggregation.MIN_HOP:
        rule = f"must be 0 or at least {aggregation.MIN_HOP} (a second)"
        raise errors.invalid(f"{path}.hop_microseconds", wanted.hop, rule)
    if wanted.window % hop:
        rule = f"must be a multiple of the hop, {hop}"
        raise errors.invalid(window, wanted.window, rule)
    if wanted.window // hop > aggregation.MAX_TILES:
        rule = f"must be at least a thousandth of the window, {wanted.window}"
        raise errors.invalid(f"{path}.hop_microseconds", hop, rule)
    return hop


def _columns(
    source: definitions.FeatureView, fields: tuple[aggregation.AggregateField, ...]
) -> tuple[definitions.Field, ...]:
    found = []
    for index, each in enumerate(fields):
        position = source.field_index(each.field) if each.field else None
        own = None if position is None else source.fields[position].dtype
        dtype = aggregation.result_type(each.function, own)
        default = each.default
        if dtype in (DataType.FLOAT32, DataType.FLOAT64) and type(default) is int:
            default = float(default)
        if default is not None:
            checks.check_value(f"{_PATH}.fields[{index}].default_value", default, dtype)
        found += [
            definitions.Field(
                name, dtype, default, each.sensitive, each.description, dict(each.tags)
            )
            for name in each.columns
        ]
    return tuple(found)
