"""What differs between two definitions, field by field, in words."""

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from setpoint_feature.domain import definitions, wording

_OF_THE_SERVICE: Final = frozenset({"name", "version", "create_time"})
_FOR_PEOPLE: Final = frozenset({"description", "owner", "tags", "sensitive", "retention"})
"""What makes no version, wherever it stands."""
_FOR_PEOPLE_OF_CODE: Final = frozenset({"function", "source"})
"""The same of transformations: where the code lies, and how it is written."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs."""

    field: str
    before: str
    after: str
    makes_version: bool


def between(
    before: definitions.Definition | None, after: definitions.Definition
) -> tuple[Difference, ...]:
    """Returns what differs; where there is nothing before, everything that is said."""
    return tuple(_walk("", before, after, makes_version=True))


def _walk(path: str, before: Any, after: Any, *, makes_version: bool) -> Iterator[Difference]:
    if before == after:
        return
    if dataclasses.is_dataclass(after) and (before is None or dataclasses.is_dataclass(before)):
        for field in dataclasses.fields(after):
            if _is_derived(after, field.name) or (not path and field.name in _OF_THE_SERVICE):
                continue
            yield from _walk(
                f"{path}.{field.name}" if path else field.name,
                _nothing(field) if before is None else getattr(before, field.name),
                getattr(after, field.name),
                makes_version=makes_version and not _is_for_people(after, field.name),
            )
    elif _is_list(before) and _is_list(after):
        yield from _lists(path, before, after, makes_version=makes_version)
    elif isinstance(after, Mapping) and isinstance(before, Mapping | None):
        known = before or {}
        for key in dict.fromkeys([*known, *after]):
            yield from _walk(
                f"{path}[{key}]", known.get(key), after.get(key), makes_version=makes_version
            )
    else:
        yield Difference(path, _text(path, before), _text(path, after), makes_version)


def _lists(
    path: str, before: Sequence[Any], after: Sequence[Any], *, makes_version: bool
) -> Iterator[Difference]:
    known = {_key(each): each for each in before}
    wanted = {_key(each): each for each in after}
    for key in dict.fromkeys([*known, *wanted]):
        at = f"{path}[{key}]"
        if key not in known or key not in wanted:
            yield Difference(
                at, _item(known.get(key)), _item(wanted.get(key)), makes_version=makes_version
            )
        else:
            yield from _walk(at, known[key], wanted[key], makes_version=makes_version)
    kept = [key for key in known if key in wanted]
    order = [key for key in wanted if key in known]
    if kept != order:
        yield Difference(f"{path} in order", ", ".join(kept), ", ".join(order), makes_version)


def _is_derived(definition: object, field: str) -> bool:
    """Tells whether a field is but bound from elsewhere: the keys of a view are its entity's."""
    return isinstance(definition, definitions.FeatureView) and field == "keys"


def _is_for_people(definition: object, field: str) -> bool:
    if isinstance(definition, definitions.Transformation) and field in _FOR_PEOPLE_OF_CODE:
        return True
    return field in _FOR_PEOPLE


def _is_list(value: object) -> bool:
    return isinstance(value, tuple)


def _nothing(field: "dataclasses.Field[Any]") -> Any:
    """Returns what a field holds where nothing is said."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is not dataclasses.MISSING:
        return field.default
    return () if str(field.type).startswith("tuple") else None


def _key(item: Any) -> str:
    return str(item.column if isinstance(item, definitions.FeatureReference) else item.name)


def _item(item: Any) -> str:
    """Writes a whole item of a list in one line, without what people alone read."""
    if item is None:
        return ""
    said = []
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        is_unsaid = value is None if field.name == "default" else value == _nothing(field)
        if field.name in ("name", "alias", "description", "tags", "source") or is_unsaid:
            continue
        said.append(f"{field.name.replace('_', ' ')} {_text(field.name, value)}")
    return ", ".join(said)


def _text(path: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, enum.IntEnum):
        return value.name
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {held}" for key, held in value.items())
    if path.rpartition(".")[2] in ("ttl", "window", "hop", "retention"):
        return wording.exact_duration(value) if value else "for ever"
    if isinstance(value, tuple):
        return ", ".join(
            _item(each) if dataclasses.is_dataclass(each) else str(each) for each in value
        )
    return str(value)
