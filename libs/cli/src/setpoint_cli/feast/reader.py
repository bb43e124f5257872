"""Tells what a Feast repository defines, as JSON: ``python reader.py FOLDER``, with the Python that has Feast.

It runs beside Setpoint, not in it, so it needs the standard library and Feast alone, and works with older
versions of both. Nothing is applied, and Feast's registry is not touched; the schema of a source is read where
a view leaves its columns to it, as `feast apply` does.
"""

import importlib.metadata
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035  # Older Pythons run this.

FORM = 1
"""Grows when what is told changes its meaning."""

CONFIGURATION = "feature_store.yaml"
EXIT_NO_FEAST = 3
EXIT_NO_REPOSITORY = 4


def main() -> int:
    """Writes one JSON document to the standard output; what goes wrong to the standard error."""
    # What a repository prints while it is imported is none of it.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        import feast  # noqa: F401  # Whether it is there at all.
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_NO_FEAST
    folder = find(Path(sys.argv[1]).resolve())
    if folder is None:
        sys.stderr.write(f"there is no {CONFIGURATION}\n")
        return EXIT_NO_REPOSITORY
    answer.write(json.dumps(read(folder)))
    answer.flush()
    return 0


def find(folder: Path) -> Optional[Path]:  # noqa: UP045  # As above.
    """Returns the folder that Feast would be run in: the given one, or the one that `feast init` makes in it."""
    for each in (folder, folder / "feature_repo"):
        if (each / CONFIGURATION).is_file():
            return each
    return None


def read(folder: Path) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Imports a repository and returns what it defines."""
    from feast import FeatureStore
    from feast.repo_operations import parse_repo

    os.chdir(folder)
    # Instead of the folder of this file, which is no business of the repository's.
    sys.path[0] = str(folder)
    sys.dont_write_bytecode = True
    store = FeatureStore(repo_path=str(folder))
    found = parse_repo(folder)
    views = [*found.feature_views, *found.stream_feature_views]
    failures = {view.name: infer(store, view, found.entities) for view in views}
    return {
        "form": FORM,
        "feast": importlib.metadata.version("feast"),
        "project": store.config.project,
        "entities": [entity(each) for each in found.entities if not is_dummy(each.name)],
        "views": [view(each, failures[each.name]) for each in views],
        "on_demand": [on_demand(each) for each in found.on_demand_feature_views],
        "services": [service(each) for each in found.feature_services],
        "sources": [source(each) for each in found.data_sources],
        "labels": [each.name for each in getattr(found, "label_views", [])],
        "permissions": [each.name for each in getattr(found, "permissions", [])],
    }


def infer(store: Any, defined: Any, entities: List[Any]) -> str:  # noqa: UP006  # As above.
    """Completes a view by its source's columns where it leaves them out; returns why that failed."""
    from feast import inference

    complete = inference.update_feature_views_with_inferred_features_and_entities
    given = [[defined], entities, store.config]
    try:
        if "provider" in inspect.signature(complete).parameters:
            # Feast's own commands ask for it in this way, too.
            given.insert(0, store._get_provider())  # noqa: SLF001  # There is no other.
        complete(*given)
    except Exception as error:  # Whatever a warehouse, or its absence, makes of it.
        return f"{type(error).__name__}: {error}"
    return ""


def is_dummy(name: str) -> bool:
    """Tells whether an entity is the one that stands for none."""
    return name == "__dummy"


def entity(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells an entity."""
    return {
        "name": defined.name,
        "key": defined.join_key,
        "type": defined.value_type.name,
        **people(defined),
    }


def view(defined: Any, failure: str) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells a view of stored values."""
    stream = getattr(defined, "stream_source", None)
    batch = getattr(defined, "batch_source", None)
    udf = getattr(defined, "feature_transformation", None) or getattr(defined, "udf", None)
    return {
        "kind": type(defined).__name__,
        "name": defined.name,
        "entities": [each for each in defined.entities if not is_dummy(each)],
        "keys": [field(each) for each in defined.entity_columns if each.name != "__dummy_id"],
        "fields": [field(each) for each in defined.features],
        "ttl": microseconds(defined.ttl),
        "online": bool(defined.online),
        "enabled": bool(getattr(defined, "enabled", True)),
        "source": None if batch is None else source(batch),
        "stream": None if stream is None else source(stream),
        "derived_from": [each.name for each in getattr(defined, "source_views", None) or []],
        "transformed": udf is not None,
        "aggregations": [
            aggregation(each) for each in getattr(defined, "aggregations", None) or []
        ],
        "failure": failure,
        **people(defined),
    }


def field(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells a column with its type."""
    return {
        "name": defined.name,
        "type": str(defined.dtype),
        "description": getattr(defined, "description", "") or "",
        "tags": dict(getattr(defined, "tags", None) or {}),
    }


def aggregation(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells an aggregate over a window."""
    return {
        "column": defined.column,
        "function": defined.function,
        "window": microseconds(defined.time_window),
        "slide": microseconds(defined.slide_interval),
        "name": getattr(defined, "name", "") or "",
    }


def on_demand(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells a view that is computed when it is asked for."""
    transformation = getattr(defined, "feature_transformation", None)
    code = getattr(transformation, "udf_string", "") or getattr(defined, "udf_string", "") or ""
    requests = defined.source_request_sources.values()
    return {
        "name": defined.name,
        "mode": str(getattr(defined, "mode", "pandas")),
        "singleton": bool(getattr(defined, "singleton", False)),
        "source": code,
        "fields": [field(each) for each in defined.features],
        "views": [projection(each) for each in defined.source_feature_view_projections.values()],
        "request": [field(each) for request in requests for each in schema(request)],
        "stored": bool(getattr(defined, "write_to_online_store", False)),
        "aggregations": [
            aggregation(each) for each in getattr(defined, "aggregations", None) or []
        ],
        **people(defined),
    }


def schema(request: Any) -> List[Any]:  # noqa: UP006  # As above.
    """Returns the fields of a request."""
    return list(request.schema)


def service(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells a list of features for a model."""
    return {
        "name": defined.name,
        "views": [projection(each) for each in defined.feature_view_projections],
        "references": list(getattr(defined, "_pending_feature_refs", None) or []),
        "logged": getattr(defined, "logging_config", None) is not None,
        **people(defined),
    }


def projection(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells which features of a view are taken, and by which keys."""
    names = [each.name for each in defined.features] or list(defined.desired_features)
    return {
        "view": defined.name,
        "alias": defined.name_alias or "",
        "features": names,
        "keys": dict(defined.join_key_map),
        "version": getattr(defined, "version_tag", None),
    }


def source(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells where rows come from."""
    # What is pushed or streamed has the columns of the batch source beside it.
    columns = getattr(defined, "batch_source", None) or defined
    return {
        "kind": type(defined).__name__,
        "name": defined.name,
        "time": getattr(columns, "timestamp_field", "") or "",
        "created": getattr(columns, "created_timestamp_column", "") or "",
        "columns": dict(getattr(columns, "field_mapping", None) or {}),
    }


def people(defined: Any) -> Dict[str, Any]:  # noqa: UP006  # As above.
    """Tells what is for people."""
    return {
        "description": getattr(defined, "description", "") or "",
        "owner": getattr(defined, "owner", "") or "",
        "tags": dict(getattr(defined, "tags", None) or {}),
    }


def microseconds(duration: Any) -> Optional[int]:  # noqa: UP045  # As above.
    """Returns a timedelta as a whole number, exactly."""
    if duration is None:
        return None
    seconds = duration.days * 86_400 + duration.seconds
    return int(seconds * 1_000_000 + duration.microseconds)


if __name__ == "__main__":
    sys.exit(main())
