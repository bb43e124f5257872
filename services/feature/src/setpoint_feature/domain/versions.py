"""Versions by content: what changes values is hashed, what people read is not."""

import hashlib
import json
from typing import Any

from setpoint_feature.domain import aggregation, definitions, packing

VERSION_LENGTH = 16
"""Hexadecimal digits kept of the hash: 64 bits tell apart far more versions than a name ever has."""


def view_version(view: definitions.FeatureView) -> str:
    """Returns the hash of everything in a view that changes which values are seen.

    Field order counts, because rows are packed in it. Integer keys of both widths are one type,
    because they are the same keys.
    """
    content: dict[str, Any] = {
        "view": view.name,
        "entity": view.entity,
        "keys": sorted([key.name, _key_kind(key)] for key in view.keys),
        "fields": [
            # A field without the rule hashes as it did before there was one.
            [each.name, each.dtype.name, packing.default_bytes(each), *["finite"] * each.finite]
            for each in view.fields
        ],
        "ttl": view.ttl,
        "boundary": view.boundary.value,
    }
    if view.aggregation is not None:
        content["aggregation"] = _aggregation(view.aggregation)
    return _hash(content)


def _aggregation(value: aggregation.Aggregation) -> list[Any]:
    return [
        value.source,
        value.source_version,
        sorted(value.group_by.items()),
        [
            [
                each.name,
                each.function.value,
                each.field,
                each.window,
                each.hop,
                None if each.where is None else [each.where.field, each.where.equals],
                each.n,
            ]
            for each in value.fields
        ],
    ]


def feature_set_version(feature_set: definitions.FeatureSet) -> str:
    """Returns the hash of a feature set whose references are bound to view versions."""
    content: dict[str, Any] = {
        "set": feature_set.name,
        "features": [
            [
                each.column,
                each.view,
                each.view_version,
                each.field,
                sorted(each.key_columns.items()),
            ]
            for each in feature_set.features
        ],
        "request_fields": [[each.name, each.dtype.name] for each in feature_set.request_fields],
    }
    if feature_set.transformations:
        # Where the code lies does not count; what it is does.
        content["transformations"] = [
            [each.name, sorted(each.inputs.items()), each.source_hash]
            for each in feature_set.transformations
        ]
    return _hash(content)


def _key_kind(key: definitions.FieldSpec) -> str:
    return "integer" if key.dtype in definitions.INTEGER_KEY_TYPES else "string"


def _hash(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:VERSION_LENGTH]
