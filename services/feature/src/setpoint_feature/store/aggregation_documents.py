"""Aggregations as JSON documents."""

from typing import Any

from setpoint_feature.domain import aggregation

Document = dict[str, Any]


def to_document(wanted: aggregation.Aggregation) -> Document:
    """Returns the document of an aggregation."""
    return {
        "source": wanted.source,
        "source_version": wanted.source_version,
        "group_by": dict(wanted.group_by),
        "fields": [_field_document(each) for each in wanted.fields],
    }


def _field_document(field: aggregation.AggregateField) -> Document:
    where = field.where
    return {
        "name": field.name,
        "function": field.function.value,
        "field": field.field,
        "window": field.window,
        "hop": field.hop,
        "where": None if where is None else {"field": where.field, "equals": where.equals},
        "n": field.n,
        "default": field.default,
        "sensitive": field.sensitive,
        "description": field.description,
        "tags": dict(field.tags),
    }


def from_document(document: Document) -> aggregation.Aggregation:
    """Returns the aggregation of a document."""
    return aggregation.Aggregation(
        source=document["source"],
        fields=tuple(map(_field, document["fields"])),
        group_by=document["group_by"],
        source_version=document["source_version"],
    )


def _field(document: Document) -> aggregation.AggregateField:
    where = document["where"]
    return aggregation.AggregateField(
        name=document["name"],
        function=aggregation.Function(document["function"]),
        field=document["field"],
        window=document["window"],
        hop=document["hop"],
        where=None if where is None else aggregation.Condition(where["field"], where["equals"]),
        n=document["n"],
        default=document["default"],
        sensitive=document["sensitive"],
        description=document["description"],
        tags=document["tags"],
    )
