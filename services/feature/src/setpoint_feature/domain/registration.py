"""What a registration makes of a definition, given all others.

Each function returns the definition to store, or the stored one itself when nothing changes.
"""

import dataclasses
from collections.abc import Mapping

from setpoint_columns import DataType
from setpoint_feature.domain import (
    aggregating,
    catalog,
    checks,
    definitions,
    transformations,
    versions,
)
from setpoint_features import library
from setpoint_runtime import errors


def entity(known: catalog.Catalog, wanted: definitions.Entity, now: int) -> definitions.Entity:
    """Decides on an entity.

    Raises:
        InvalidArgumentError: Names a bad field.
        AlreadyExistsError: NAME_TAKEN, when the name has other keys.
    """
    checks.check_entity(wanted)
    found = known.entities.get(wanted.name)
    if found is None:
        return dataclasses.replace(wanted, create_time=now)
    if _keys(found) != _keys(wanted):
        raise errors.AlreadyExistsError(
            errors.Reason.NAME_TAKEN,
            f"entity {wanted.name!r} exists with other keys; the keys of an entity never change",
            metadata={"name": wanted.name},
        )
    return dataclasses.replace(wanted, create_time=found.create_time)


def view(
    known: catalog.Catalog, wanted: definitions.FeatureView, now: int
) -> definitions.FeatureView:
    """Decides on a view: what changes values makes a version, what people read is replaced.

    Raises:
        InvalidArgumentError: Names a bad field, an unknown entity among them.
        FailedPreconditionError: HISTORY_REMOVED, when it would aggregate over rows that are gone.
    """
    if wanted.aggregation is None:
        checks.check_view(wanted)
    owner = known.entities.get(wanted.entity)
    if owner is None:
        raise errors.invalid(
            "view.entity",
            wanted.entity,
            "must be a registered entity",
            errors.Reason.ENTITY_NOT_FOUND,
        )
    bound = dataclasses.replace(wanted, keys=owner.keys)
    if wanted.aggregation is not None:
        bound = aggregating.bind(known, bound, wanted.aggregation)
        checks.check_view(bound)
    checks.check_view_keys(bound)
    version = versions.view_version(bound)
    found = known.views.find(wanted.name, version)
    if found is None:
        aggregating.check_complete(known, bound, now)
    create_time = now if found is None else found.create_time
    return dataclasses.replace(bound, version=version, create_time=create_time)


def feature_set(
    known: catalog.Catalog,
    wanted: definitions.FeatureSet,
    now: int,
    functions: library.Library = library.EMPTY,
) -> definitions.FeatureSet:
    """Decides on a feature set, bound to the latest versions of its views and to its functions.

    Raises:
        InvalidArgumentError: Names a bad field: an unknown view, field, key or function, a clash of columns, or
            transformations that read each other in a circle.
        FailedPreconditionError: TRANSFORMATION_MISMATCH, when a function is not the one that the caller has.
    """
    checks.check_feature_set(wanted)
    features = tuple(
        _bind(known, each, f"feature_set.features[{index}]")
        for index, each in enumerate(wanted.features)
    )
    bound = dataclasses.replace(
        wanted, features=features, transformations=transformations.bind(wanted, functions)
    )
    _check_columns(known, bound)
    version = versions.feature_set_version(bound)
    found = known.feature_sets.find(wanted.name, version)
    create_time = now if found is None else found.create_time
    return dataclasses.replace(bound, version=version, create_time=create_time)


def is_latest(known: catalog.Catalog, wanted: definitions.Definition) -> bool:
    """Tells whether a definition is stored already exactly so, and is the latest of its name."""
    if isinstance(wanted, definitions.Entity):
        return known.entities.get(wanted.name) == wanted
    if isinstance(wanted, definitions.FeatureView):
        return known.views.latest.get(wanted.name) == wanted
    return known.feature_sets.latest.get(wanted.name) == wanted


def _keys(value: definitions.Entity) -> dict[str, DataType]:
    return {key.name: key.dtype for key in value.keys}


def _bind(
    known: catalog.Catalog, reference: definitions.FeatureReference, field: str
) -> definitions.FeatureReference:
    view = known.views.latest.get(reference.view)
    if view is None:
        raise errors.invalid(
            f"{field}.view",
            reference.view,
            "must be a registered feature view",
            errors.Reason.FEATURE_VIEW_NOT_FOUND,
        )
    position = view.field_index(reference.field)
    if position is None:
        raise errors.invalid(
            f"{field}.field",
            reference.field,
            f"must be a field of the view {view.name}",
            errors.Reason.UNKNOWN_FIELD,
        )
    return dataclasses.replace(
        reference,
        key_columns=resolve_keys(view, reference.key_columns, f"{field}.key_columns"),
        view_version=view.version,
        dtype=view.fields[position].dtype,
    )


def resolve_keys(
    view: definitions.FeatureView, key_columns: Mapping[str, str], field: str
) -> dict[str, str]:
    """Returns the renamed keys of a reference without those that keep their name.

    Raises:
        InvalidArgumentError: A key is none of the view's entity.
    """
    keys = {key.name for key in view.keys}
    for key in key_columns:
        if key not in keys:
            raise errors.invalid(
                field,
                key,
                f"must be a key of the entity {view.entity}",
                errors.Reason.UNKNOWN_FIELD,
            )
    return {key: column for key, column in sorted(key_columns.items()) if key != column}


def _check_columns(known: catalog.Catalog, bound: definitions.FeatureSet) -> None:
    """Refuses a set in which one request column would need two types, or be key and feature at once."""
    columns: dict[str, bool] = {}
    for spec in bound.request_fields:
        columns[spec.name] = spec.dtype is DataType.STRING
    features = {each.column for each in bound.features}
    features |= {each.name for each in bound.transformations}
    for index, each in enumerate(bound.features):
        view = known.views.by_version[each.view, each.view_version]
        for key in view.keys:
            column = each.key_columns.get(key.name, key.name)
            field = f"feature_set.features[{index}].key_columns[{key.name}]"
            if column in features:
                raise errors.invalid(field, column, "must differ from the columns of the features")
            is_text = key.dtype is DataType.STRING
            if columns.setdefault(column, is_text) != is_text:
                rule = f"must be {key.dtype.name} here and is of another type elsewhere in the set"
                raise errors.invalid(field, column, rule, errors.Reason.WRONG_TYPE)
