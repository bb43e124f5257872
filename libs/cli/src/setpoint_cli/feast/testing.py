"""Parts of what `reader` tells of a repository, for tests."""

from typing import Any

PEOPLE: dict[str, Any] = {"description": "", "owner": "", "tags": {}}


def field(name: str, kind: str = "Float32", **more: Any) -> dict[str, Any]:
    """Tells a column."""
    return {"name": name, "type": kind, "description": "", "tags": {}, **more}


def entity(name: str, key: str = "", kind: str = "INT64", **more: Any) -> dict[str, Any]:
    """Tells an entity; its key is called like itself."""
    return {"name": name, "key": key or name, "type": kind, **PEOPLE, **more}


def source(name: str = "file", **more: Any) -> dict[str, Any]:
    """Tells a file with times of both kinds."""
    made: dict[str, Any] = {
        "kind": "FileSource",
        "name": name,
        "time": "at",
        "created": "seen",
        "columns": {},
    }
    return {**made, **more}


def view(name: str, entities: list[str], fields: list[Any], **more: Any) -> dict[str, Any]:
    """Tells a view of stored values that maps exactly."""
    return {
        "kind": "FeatureView",
        "name": name,
        "entities": entities,
        "keys": [],
        "fields": fields,
        "ttl": 0,
        "online": True,
        "enabled": True,
        "source": source(),
        "stream": None,
        "derived_from": [],
        "transformed": False,
        "aggregations": [],
        "failure": "",
        **PEOPLE,
        **more,
    }


def taken(view_name: str, features: list[str], **more: Any) -> dict[str, Any]:
    """Tells features that are taken from a view."""
    made: dict[str, Any] = {
        "view": view_name,
        "alias": "",
        "features": features,
        "keys": {},
        "version": None,
    }
    return {**made, **more}


def on_demand(name: str, code: str, fields: list[Any], **more: Any) -> dict[str, Any]:
    """Tells a view that is computed."""
    return {
        "name": name,
        "mode": "pandas",
        "singleton": False,
        "source": code,
        "fields": fields,
        "views": [],
        "request": [],
        "stored": False,
        "aggregations": [],
        **PEOPLE,
        **more,
    }


def service(name: str, views: list[Any], **more: Any) -> dict[str, Any]:
    """Tells a list of features."""
    return {"name": name, "views": views, "references": [], "logged": False, **PEOPLE, **more}


def repository(**parts: Any) -> dict[str, Any]:
    """Tells a whole repository, of the given parts."""
    lists = ("entities", "views", "on_demand", "services", "sources", "labels", "permissions")
    return {
        "form": 1,
        "feast": "0.67.0",
        "project": "shop",
        **{name: [] for name in lists},
        **parts,
    }
