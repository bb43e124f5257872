"""Definitions from YAML, every mistake told by file, line and path."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml

from setpoint_columns import DataType
from setpoint_features import definitions
from setpoint_runtime import errors

_TYPES: Final = {each.name.lower(): each for each in DataType}
_UNITS: Final = {
    "us": timedelta(microseconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|min|h|d|w)")
_DURATION: Final = re.compile(rf"-?(?:{_PART.pattern})+")
_SCALARS: Final = {
    "tag:yaml.org,2002:bool": bool,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}
_T = TypeVar("_T")


def read(path: Path) -> list[definitions.Definition]:
    """Returns the definitions of a file.

    Raises:
        InvalidArgumentError: Something in it is wrong; names file, line, path, value and rule.
    """
    try:
        documents = list(yaml.compose_all(path.read_text(encoding="utf-8"), yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        told = getattr(error, "problem", None) or str(error)
        raise errors.invalid(f"{path}:{line}", told, "must be YAML") from None
    found: list[definitions.Definition] = []
    for document in documents:
        found += _Entry(path, document, "").document()
    return found


class _Entry:
    """One node of a file, with where it stands."""

    def __init__(self, file: Path, node: yaml.Node, path: str) -> None:
        self._file = file
        self._node = node
        self._path = path

    @property
    def where(self) -> definitions.Location:
        """File and line."""
        return definitions.Location(str(self._file), self._node.start_mark.line + 1)

    @property
    def is_scalar(self) -> bool:
        """Whether it is neither a mapping nor a list."""
        return isinstance(self._node, yaml.ScalarNode)

    def wrong(self, rule: str) -> errors.InvalidArgumentError:
        """Returns the error for this entry."""
        is_list = isinstance(self._node, yaml.SequenceNode)
        found = self._node.value if self.is_scalar else "a list" if is_list else "a mapping"
        place = f"{self.where}: {self._path}" if self._path else str(self.where)
        return errors.invalid(place, found, rule)

    def mapping(self, *allowed: str, needed: tuple[str, ...] = ()) -> dict[str, "_Entry"]:
        """Returns the entries of a mapping, by name; without `allowed` any name goes."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.wrong("must be a mapping")
        found: dict[str, _Entry] = {}
        for key, node in self._node.value:
            name = _Entry(self._file, key, self._path).text()
            at = f"{self._path}.{name}" if self._path else name
            entry = _Entry(self._file, node, at)
            if allowed and name not in allowed:
                raise _Entry(self._file, key, at).wrong(f"must be one of {', '.join(allowed)}")
            if name in found:
                raise _Entry(self._file, key, at).wrong("must be there only once")
            found[name] = entry
        for name in needed:
            if name not in found:
                raise self.wrong(f"must have {name}")
        return found

    def items(self) -> list["_Entry"]:
        """Returns the entries of a list."""
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.wrong("must be a list")
        return [
            _Entry(self._file, node, f"{self._path}[{index}]")
            for index, node in enumerate(self._node.value)
        ]

    def scalar(self) -> Any:
        """Returns a truth value, number or text."""
        if not isinstance(self._node, yaml.ScalarNode) or self._node.tag not in _SCALARS:
            raise self.wrong("must be text, a number, true or false")
        return yaml.SafeLoader("").construct_object(self._node)

    def text(self) -> str:
        """Returns text; what YAML takes for something else must be quoted."""
        found = self.scalar()
        if not isinstance(found, str):
            raise self.wrong("must be text; put it in quotes")
        return found

    def flag(self) -> bool:
        """Returns true or false."""
        found = self.scalar()
        if not isinstance(found, bool):
            raise self.wrong("must be true or false")
        return found

    def number(self) -> int:
        """Returns a whole number."""
        found = self.scalar()
        if type(found) is not int:
            raise self.wrong("must be a whole number")
        return found

    def dtype(self) -> DataType:
        """Returns a type by its name."""
        found = _TYPES.get(self.text())
        if found is None:
            raise self.wrong(f"must be one of {', '.join(_TYPES)}")
        return found

    def duration(self) -> timedelta:
        """Returns a length of time, such as 90s, 12h, 1d12h."""
        written = str(self.scalar())
        if _DURATION.fullmatch(written) is None:
            raise self.wrong(
                f"must be a length of time such as 12h or 1d12h, of {', '.join(_UNITS)}"
            )
        try:
            total = sum(
                (float(count) * _UNITS[unit] for count, unit in _PART.findall(written)), timedelta()
            )
        except OverflowError:
            raise self.wrong("must be shorter") from None
        return -total if written.startswith("-") else total

    def texts(self) -> dict[str, str]:
        """Returns a mapping of texts; numbers and truth values count as written."""
        return {name: entry.written() for name, entry in self.mapping().items()}

    def written(self) -> str:
        """Returns a scalar as it is written."""
        self.scalar()
        return str(self._node.value)

    def document(self) -> list[definitions.Definition]:
        """Returns all definitions of a document."""
        parts = self.mapping("entities", "views", "feature_sets")
        kinds: Mapping[str, Callable[[_Entry], definitions.Definition]] = {
            "entities": _entity,
            "views": _view,
            "feature_sets": _feature_set,
        }
        return [kinds[name](each) for name, entry in parts.items() for each in entry.items()]


def _optional(
    parts: Mapping[str, _Entry], name: str, read_one: Callable[[_Entry], _T], otherwise: _T
) -> _T:
    entry = parts.get(name)
    return otherwise if entry is None else read_one(entry)


def _texts(parts: Mapping[str, _Entry], name: str) -> dict[str, str]:
    return parts[name].texts() if name in parts else {}


def _described(entry: _Entry, parts: Mapping[str, _Entry]) -> dict[str, Any]:
    return {
        "description": _optional(parts, "description", _Entry.text, ""),
        "owner": _optional(parts, "owner", _Entry.text, ""),
        "tags": _texts(parts, "tags"),
        "where": entry.where,
    }


_PEOPLE: Final = ("description", "owner", "tags")
_FUNCTIONS: Final = get_args(definitions.AggregateFunction)


def _entity(entry: _Entry) -> definitions.Entity:
    parts = entry.mapping("name", "keys", *_PEOPLE, needed=("name",))
    keys = parts["keys"].mapping() if "keys" in parts else {}
    return definitions.Entity(
        parts["name"].text(),
        {name: each.dtype() for name, each in keys.items()},
        **_described(entry, parts),
    )


def _view(entry: _Entry) -> definitions.View:
    if "source" in entry.mapping():
        return _aggregate_view(entry)
    parts = entry.mapping(
        *("name", "entity", "fields", "ttl", "boundary", "retention", *_PEOPLE),
        needed=("name", "entity", "fields"),
    )
    return definitions.FeatureView(
        parts["name"].text(),
        parts["entity"].text(),
        [_field(each) for each in parts["fields"].items()],
        ttl=_optional(parts, "ttl", _Entry.duration, None),
        boundary=_boundary(parts),
        retention=_optional(parts, "retention", _Entry.duration, None),
        **_described(entry, parts),
    )


def _boundary(parts: Mapping[str, _Entry]) -> definitions.Boundary:
    found = _optional(parts, "boundary", _Entry.text, "inclusive")
    if found not in ("inclusive", "exclusive"):
        raise parts["boundary"].wrong("must be inclusive or exclusive")
    return "exclusive" if found == "exclusive" else "inclusive"


def _aggregate_view(entry: _Entry) -> definitions.AggregateView:
    parts = entry.mapping(
        *("name", "entity", "source", "group_by", "aggregates", "boundary", *_PEOPLE),
        needed=("name", "entity", "source", "aggregates"),
    )
    return definitions.AggregateView(
        parts["name"].text(),
        parts["entity"].text(),
        parts["source"].text(),
        [_aggregate(each) for each in parts["aggregates"].items()],
        _texts(parts, "group_by"),
        _boundary(parts),
        **_described(entry, parts),
    )


def _aggregate(entry: _Entry) -> definitions.Aggregate:
    parts = entry.mapping(
        *("name", "function", "window", "of", "condition", "hop", "n", "default", "sensitive"),
        *("description", "tags"),
        needed=("name", "function", "window"),
    )
    function = next(
        (each for each in _FUNCTIONS if each == parts["function"].text()),
        None,
    )
    if function is None:
        raise parts["function"].wrong(f"must be one of {', '.join(_FUNCTIONS)}")
    return definitions.Aggregate(
        parts["name"].text(),
        function,
        parts["window"].duration(),
        _optional(parts, "of", _Entry.text, ""),
        _optional(parts, "condition", _condition, None),
        _optional(parts, "hop", _Entry.duration, None),
        _optional(parts, "n", _Entry.number, 0),
        _optional(parts, "default", _Entry.scalar, None),
        _optional(parts, "sensitive", _Entry.flag, False),
        _optional(parts, "description", _Entry.text, ""),
        _texts(parts, "tags"),
        entry.where,
    )


def _condition(entry: _Entry) -> tuple[str, definitions.Default]:
    parts = entry.mapping("field", "equals", needed=("field", "equals"))
    return parts["field"].text(), parts["equals"].scalar()


def _field(entry: _Entry) -> definitions.Field:
    parts = entry.mapping(
        *("name", "type", "default", "sensitive", "description", "tags", "finite"),
        needed=("name", "type"),
    )
    return definitions.Field(
        parts["name"].text(),
        parts["type"].dtype(),
        _optional(parts, "default", _Entry.scalar, None),
        _optional(parts, "sensitive", _Entry.flag, False),
        _optional(parts, "description", _Entry.text, ""),
        _texts(parts, "tags"),
        finite=_optional(parts, "finite", _Entry.flag, False),
        where=entry.where,
    )


def _feature_set(entry: _Entry) -> definitions.FeatureSet:
    parts = entry.mapping(
        "name", "features", "request_fields", "transformations", *_PEOPLE, needed=("name",)
    )
    return definitions.FeatureSet(
        parts["name"].text(),
        [_feature(each) for each in _items(parts, "features")],
        [_request_field(each) for each in _items(parts, "request_fields")],
        [_derived(each) for each in _items(parts, "transformations")],
        **_described(entry, parts),
    )


def _items(parts: Mapping[str, _Entry], name: str) -> list[_Entry]:
    return _optional(parts, name, _Entry.items, [])


def _feature(entry: _Entry) -> definitions.Feature:
    if entry.is_scalar:
        view, dot, field = entry.text().partition(".")
        if not (view and dot and field):
            raise entry.wrong("must be view.field, or a mapping with view and field")
        return definitions.Feature(view, field, where=entry.where)
    parts = entry.mapping("view", "field", "alias", "keys", needed=("view", "field"))
    return definitions.Feature(
        parts["view"].text(),
        parts["field"].text(),
        _optional(parts, "alias", _Entry.text, ""),
        _texts(parts, "keys"),
        entry.where,
    )


def _request_field(entry: _Entry) -> definitions.RequestField:
    parts = entry.mapping("name", "type", "description", needed=("name", "type"))
    return definitions.RequestField(
        parts["name"].text(),
        parts["type"].dtype(),
        _optional(parts, "description", _Entry.text, ""),
        entry.where,
    )


def _derived(entry: _Entry) -> definitions.Derived:
    parts = entry.mapping("name", "function", "inputs", needed=("name", "function"))
    return definitions.Derived(
        parts["name"].text(),
        parts["function"].text(),
        _texts(parts, "inputs"),
        entry.where,
    )
