"""Whether a definition makes sense by itself; each error names the field, the value and the rule."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

from setpoint_columns import Column, DataType
from setpoint_feature.domain import definitions, keys
from setpoint_runtime import errors, names

MAX_FIELDS: Final = 1000
MAX_TEXT_BYTES: Final = 65_536
"""Longest STRING value of a feature; a longer one belongs into an object store."""
MAX_DESCRIPTION: Final = 4096
MAX_TAGS: Final = 64
MAX_TAG_CHARACTERS: Final = 256
MAX_SOURCE: Final = 65_536
COLUMN_RULE: Final = "must match ^[A-Za-z0-9_.-]{1,64}$"
_COLUMN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TAG = re.compile(r"[A-Za-z0-9_./-]{1,64}")
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,255}:[A-Za-z_][A-Za-z0-9_]{0,255}")
_FLOATS: Final = frozenset({DataType.FLOAT32, DataType.FLOAT64})
_MAX_INT64: Final = (1 << 63) - 1


def check_entity(entity: definitions.Entity) -> None:
    """Refuses an entity that cannot be one.

    Raises:
        InvalidArgumentError: Names the field.
    """
    names.check_name("entity.name", entity.name)
    _check_people("entity", entity)
    if len(entity.keys) > keys.MAX_KEY_COLUMNS:
        rule = f"must hold at most {keys.MAX_KEY_COLUMNS} key columns"
        raise errors.invalid("entity.keys", f"{len(entity.keys)} keys", rule)
    _check_distinct("entity.keys", [key.name for key in entity.keys])
    for index, key in enumerate(entity.keys):
        field = f"entity.keys[{index}]"
        check_column(f"{field}.name", key.name)
        if key.dtype not in definitions.KEY_TYPES:
            raise errors.invalid(
                f"{field}.dtype",
                key.dtype.name,
                "must be INT32, INT64 or STRING",
                errors.Reason.WRONG_TYPE,
            )


def check_view(view: definitions.FeatureView) -> None:
    """Refuses a view that cannot be one, before its entity is looked up.

    Raises:
        InvalidArgumentError: Names the field.
    """
    names.check_name("view.name", view.name)
    names.check_name("view.entity", view.entity)
    _check_people("view", view)
    if not 0 <= view.ttl <= _MAX_INT64:
        raise errors.invalid("view.ttl_microseconds", view.ttl, "must be at least 0")
    if not 0 <= view.retention <= _MAX_INT64:
        rule = "must be at least 0"
        raise errors.invalid("view.retention_microseconds", view.retention, rule)
    if not 1 <= len(view.fields) <= MAX_FIELDS:
        rule = f"must hold 1 to {MAX_FIELDS} fields"
        raise errors.invalid("view.fields", f"{len(view.fields)} fields", rule)
    _check_distinct("view.fields", [each.name for each in view.fields])
    for index, each in enumerate(view.fields):
        field = f"view.fields[{index}]"
        check_column(f"{field}.name", each.name)
        if each.finite and each.dtype not in _FLOATS:
            rule = f"is a rule for FLOAT32 and FLOAT64, not for {each.dtype.name}"
            raise errors.invalid(f"{field}.finite", True, rule, errors.Reason.WRONG_TYPE)
        if each.default is not None:
            check_value(f"{field}.default_value", each.default, each.dtype)
        _check_tags(f"{field}.tags", each.tags)


def check_view_keys(view: definitions.FeatureView) -> None:
    """Refuses a view with a field that has the name of one of its keys.

    Raises:
        InvalidArgumentError: Names the field.
    """
    taken = {key.name for key in view.keys}
    for index, each in enumerate(view.fields):
        if each.name in taken:
            rule = f"must differ from the key of the entity {view.entity}"
            raise errors.invalid(f"view.fields[{index}].name", each.name, rule)


def check_feature_set(feature_set: definitions.FeatureSet) -> None:
    """Refuses a feature set that cannot be one, before its views are looked up.

    Raises:
        InvalidArgumentError: Names the field.
    """
    names.check_name("feature_set.name", feature_set.name)
    _check_people("feature_set", feature_set)
    transformations = feature_set.transformations
    total = len(feature_set.features) + len(feature_set.request_fields) + len(transformations)
    if not 1 <= total <= MAX_FIELDS:
        rule = f"must hold 1 to {MAX_FIELDS} features, request fields and transformations"
        raise errors.invalid("feature_set.features", f"{total} columns", rule)
    columns = [each.column for each in feature_set.features]
    columns += [each.name for each in feature_set.request_fields]
    for index, each in enumerate(feature_set.features):
        field = f"feature_set.features[{index}]"
        names.check_name(f"{field}.view", each.view)
        check_column(f"{field}.alias" if each.alias else f"{field}.field", each.column)
        for key, column in each.key_columns.items():
            check_column(f"{field}.key_columns[{key}]", column)
    for index, spec in enumerate(feature_set.request_fields):
        check_column(f"feature_set.request_fields[{index}].name", spec.name)
    for index, derived in enumerate(transformations):
        field = f"feature_set.transformations[{index}]"
        check_column(f"{field}.name", derived.name)
        if _FUNCTION.fullmatch(derived.function) is None:
            raise errors.invalid(f"{field}.function", derived.function, "must be module:name")
        columns.append(derived.name)
    _check_distinct("feature_set columns", columns)


def check_column(field: str, name: str) -> None:
    """Refuses a name that no key, field or column may have.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if _COLUMN.fullmatch(name) is None:
        raise errors.invalid(field, name, COLUMN_RULE)
    if name in definitions.RESERVED_COLUMNS:
        raise errors.invalid(field, name, "is the name of a time column of every view")


def _check_distinct(field: str, found: Sequence[str]) -> None:
    duplicate = first_duplicate(found)
    if duplicate is not None:
        raise errors.invalid(field, duplicate, "must be there only once")


def first_duplicate(found: Iterable[str]) -> str | None:
    """Returns the first name that is there for the second time, or None."""
    seen: set[str] = set()
    for name in found:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_people(path: str, definition: definitions.Definition) -> None:
    """Checks what people read, which every kind of definition has."""
    _check_description(f"{path}.description", definition.description)
    _check_description(f"{path}.owner", definition.owner)
    _check_tags(f"{path}.tags", definition.tags)


def _check_tags(field: str, tags: definitions.Tags) -> None:
    if len(tags) > MAX_TAGS:
        rule = f"must hold at most {MAX_TAGS} tags"
        raise errors.invalid(field, f"{len(tags)} tags", rule, errors.Reason.TOO_LARGE)
    for key, text in tags.items():
        if _TAG.fullmatch(key) is None:
            raise errors.invalid(field, key, "must have keys that match ^[A-Za-z0-9_./-]{1,64}$")
        if len(text) > MAX_TAG_CHARACTERS:
            rule = f"must have at most {MAX_TAG_CHARACTERS} characters"
            raise errors.invalid(f"{field}[{key}]", text, rule, errors.Reason.TOO_LARGE)


def _check_description(field: str, text: str) -> None:
    if len(text) > MAX_DESCRIPTION:
        rule = f"must have at most {MAX_DESCRIPTION} characters"
        raise errors.invalid(field, text, rule, errors.Reason.TOO_LARGE)


def check_value(field: str, value: definitions.DefaultValue, dtype: DataType) -> None:
    """Refuses a value that a column of a type could not hold as it is.

    Raises:
        InvalidArgumentError: Names the field.
    """
    # The column's own rules decide, so that a default is exactly as typed as a written value.
    stored = (
        Column.from_list("default_value", [value], dtype).item(0) if _fits(value, dtype) else None
    )
    if stored is None:
        raise errors.invalid(
            field, value, f"must be a value of {dtype.name}", errors.Reason.WRONG_TYPE
        )
    if isinstance(stored, float) and not math.isfinite(stored):
        raise errors.invalid(field, value, "must be a finite number")
    if isinstance(stored, str) and len(stored.encode("utf-8")) > MAX_TEXT_BYTES:
        rule = f"must have at most {MAX_TEXT_BYTES} bytes"
        raise errors.invalid(field, stored, rule, errors.Reason.TOO_LARGE)


def _fits(value: definitions.DefaultValue, dtype: DataType) -> bool:
    try:
        Column.from_list("default_value", [value], dtype)
    except errors.InvalidArgumentError:
        return False
    return True
