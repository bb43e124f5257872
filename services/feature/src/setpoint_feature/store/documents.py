"""Definitions as JSON documents, the form in which they are stored."""

from typing import Any

from setpoint_columns import DataType
from setpoint_feature.domain import definitions
from setpoint_feature.store import aggregation_documents

Document = dict[str, Any]

ENTITY = "entity"
VIEW = "view"
FEATURE_SET = "feature_set"


def kind_of(definition: definitions.Definition) -> str:
    """Returns the kind under which a definition is stored."""
    if isinstance(definition, definitions.Entity):
        return ENTITY
    return VIEW if isinstance(definition, definitions.FeatureView) else FEATURE_SET


def version_of(definition: definitions.Definition) -> str:
    """Returns the version of a definition, empty for entities."""
    return "" if isinstance(definition, definitions.Entity) else definition.version


def to_document(definition: definitions.Definition) -> Document:
    """Returns the document of a definition."""
    if isinstance(definition, definitions.Entity):
        return _entity_document(definition)
    if isinstance(definition, definitions.FeatureView):
        return _view_document(definition)
    return _set_document(definition)


def from_document(kind: str, document: Document) -> definitions.Definition:
    """Returns the definition of a document."""
    if kind == ENTITY:
        return _entity(document)
    return _view(document) if kind == VIEW else _feature_set(document)


def _spec_document(spec: definitions.FieldSpec) -> Document:
    return {"name": spec.name, "dtype": spec.dtype.name, "description": spec.description}


def _spec(document: Document) -> definitions.FieldSpec:
    return definitions.FieldSpec(
        document["name"], DataType[document["dtype"]], document["description"]
    )


def _entity_document(entity: definitions.Entity) -> Document:
    return {
        "name": entity.name,
        "keys": [_spec_document(key) for key in entity.keys],
        "description": entity.description,
        "create_time": entity.create_time,
        "owner": entity.owner,
        "tags": dict(entity.tags),
    }


def _entity(document: Document) -> definitions.Entity:
    return definitions.Entity(
        document["name"],
        tuple(map(_spec, document["keys"])),
        document["description"],
        document["create_time"],
        # Documents of earlier releases have neither.
        document.get("owner", ""),
        document.get("tags", {}),
    )


def _view_document(view: definitions.FeatureView) -> Document:
    document: Document = {
        "name": view.name,
        "version": view.version,
        "entity": view.entity,
        "keys": [_spec_document(key) for key in view.keys],
        "fields": [
            {
                "name": each.name,
                "dtype": each.dtype.name,
                "default": each.default,
                "sensitive": each.sensitive,
                "description": each.description,
                "tags": dict(each.tags),
                "finite": each.finite,
            }
            for each in view.fields
        ],
        "ttl": view.ttl,
        "boundary": view.boundary.value,
        "retention": view.retention,
        "description": view.description,
        "owner": view.owner,
        "create_time": view.create_time,
        "tags": dict(view.tags),
    }
    if view.aggregation is not None:
        document["aggregation"] = aggregation_documents.to_document(view.aggregation)
    return document


def _view(document: Document) -> definitions.FeatureView:
    return definitions.FeatureView(
        name=document["name"],
        version=document["version"],
        entity=document["entity"],
        keys=tuple(map(_spec, document["keys"])),
        fields=tuple(map(_field, document["fields"])),
        ttl=document["ttl"],
        boundary=definitions.Boundary(document["boundary"]),
        retention=document.get("retention", 0),
        description=document["description"],
        owner=document["owner"],
        create_time=document["create_time"],
        tags=document.get("tags", {}),
        aggregation=(
            aggregation_documents.from_document(document["aggregation"])
            if "aggregation" in document
            else None
        ),
    )


def _field(document: Document) -> definitions.Field:
    return definitions.Field(
        document["name"],
        DataType[document["dtype"]],
        document["default"],
        document["sensitive"],
        document["description"],
        document.get("tags", {}),
        document.get("finite", False),
    )


def _set_document(feature_set: definitions.FeatureSet) -> Document:
    return {
        "name": feature_set.name,
        "version": feature_set.version,
        "features": [
            {
                "view": each.view,
                "field": each.field,
                "alias": each.alias,
                "key_columns": dict(each.key_columns),
                "view_version": each.view_version,
                "dtype": None if each.dtype is None else each.dtype.name,
            }
            for each in feature_set.features
        ],
        "request_fields": [_spec_document(each) for each in feature_set.request_fields],
        "description": feature_set.description,
        "create_time": feature_set.create_time,
        "owner": feature_set.owner,
        "tags": dict(feature_set.tags),
        "transformations": [
            {
                "name": each.name,
                "function": each.function,
                "inputs": dict(each.inputs),
                "dtype": None if each.dtype is None else each.dtype.name,
                "source_hash": each.source_hash,
                "source": each.source,
            }
            for each in feature_set.transformations
        ],
    }


def _feature_set(document: Document) -> definitions.FeatureSet:
    return definitions.FeatureSet(
        name=document["name"],
        version=document["version"],
        features=tuple(
            definitions.FeatureReference(
                view=each["view"],
                field=each["field"],
                alias=each["alias"],
                key_columns=each["key_columns"],
                view_version=each["view_version"],
                dtype=None if each["dtype"] is None else DataType[each["dtype"]],
            )
            for each in document["features"]
        ),
        request_fields=tuple(map(_spec, document["request_fields"])),
        description=document["description"],
        create_time=document["create_time"],
        owner=document.get("owner", ""),
        tags=document.get("tags", {}),
        transformations=tuple(map(_transformation, document.get("transformations", ()))),
    )


def _transformation(document: Document) -> definitions.Transformation:
    return definitions.Transformation(
        name=document["name"],
        function=document["function"],
        inputs=document["inputs"],
        dtype=None if document["dtype"] is None else DataType[document["dtype"]],
        source_hash=document["source_hash"],
        source=document["source"],
    )
