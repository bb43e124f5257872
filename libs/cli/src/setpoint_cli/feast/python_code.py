"""Definitions and functions as a Python module, as a person would write it."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import setpoint_features as features
from setpoint_cli.feast import mapping, rewriting
from setpoint_columns import DataType
from setpoint_features.definitions import Definition

_WIDTH: Final = 100
_IMPORTED: Final = (
    "DataType",
    "Derived",
    "Entity",
    "Feature",
    "FeatureSet",
    "FeatureView",
    "Field",
    "RequestField",
    "transformation",
)
_TAKEN: Final = frozenset({*_IMPORTED, "np", "timedelta"})


@dataclass(frozen=True, slots=True)
class _Call:
    """A constructor's call or, without a name, a list."""

    name: str
    arguments: Sequence["str | _Call | tuple[str, str | _Call]"]


_Code = str | _Call


def write(mapped: mapping.Mapped, project: str) -> str:
    """Returns the source of a module with everything that maps."""
    names, made = _Names(mapped), mapped.definitions
    stored = [_assign(names.of(each), _entity(each)) for each in made.entities]
    for view in made.views:
        comments = _comments(mapped.findings, "view", f"view {view.name} of {_entity_name(view)}")
        stored.append(comments + _assign(names.of(view), _view(view, names)))
    sets = []
    for each in made.feature_sets:
        comments = _comments(mapped.findings, "feature service", f"feature set {each.name}")
        sets.append(comments + _assign(names.of(each), _feature_set(each, names)))
    blocks = ["\n".join(stored), *map(_function, mapped.functions), "\n".join(sets)]
    body = "\n\n".join(block for block in blocks if block)
    gap = "\n\n" if body.startswith("@") else "\n"
    return f"{_text(f'Features of the Feast project {project}.')}\n\n{_imports(body)}{gap}{body}"


class _Names:
    """The variable of each definition."""

    def __init__(self, mapped: mapping.Mapped) -> None:
        made = mapped.definitions
        taken = {*_TAKEN, *(each.name for each in mapped.functions)}
        self._by_definition: dict[tuple[type, str], str] = {}
        self.views = {each.name: each for each in made.views}
        everything: list[Definition] = [*made.entities, *made.views, *made.feature_sets]
        for each in everything:
            name = rewriting.identifier(each.name, taken)
            taken.add(name)
            self._by_definition[type(each), each.name] = name

    def of(self, definition: Definition) -> str:
        """Returns the name of a definition's variable."""
        return self._by_definition[type(definition), definition.name]


def _imports(body: str) -> str:
    used = [name for name in _IMPORTED if f"{name}(" in body or f"{name}." in body]
    lines = ["from datetime import timedelta\n\n"] if "timedelta(" in body else []
    lines += ["import numpy as np\n\n"] if "np." in body else []
    names = ", ".join(used)
    if len(names) > _WIDTH - 40:
        names = "(\n" + "".join(f"    {name},\n" for name in used) + ")"
    return f"{''.join(lines)}from setpoint_features import {names}\n"


def _function(function: mapping.Function) -> str:
    return (
        f"@transformation({_type(function.dtype)})\n"
        f"def {function.name}({', '.join(function.parameters)}):\n"
        f"    {_text(f'Of the on-demand view {function.origin}.')}\n"
        f"    return {function.expression}\n"
    )


def _comments(findings: Iterable[mapping.Finding], kind: str, becomes: str) -> str:
    lines = []
    for each in findings:
        if each.kind == kind and each.becomes == becomes:
            for reason in each.reasons:
                text = f"Not as in Feast: {reason}."
                lines += textwrap.wrap(
                    text, _WIDTH - 2, initial_indent="# ", subsequent_indent="# "
                )
    return "".join(f"{line}\n" for line in lines)


def _entity(entity: features.Entity) -> _Call:
    keys = ", ".join(f"{_text(key)}: {_type(dtype)}" for key, dtype in entity.keys.items())
    return _Call("Entity", [_text(entity.name), f"{{{keys}}}", *_people(entity)])


def _view(view: features.FeatureView, names: _Names) -> _Call:
    if isinstance(view.entity, str):
        raise AssertionError("the mapping holds entities, not their names")
    arguments: list[Any] = [
        _text(view.name),
        names.of(view.entity),
        _Call("", [_field(each) for each in view.fields]),
    ]
    if view.ttl is not None:
        arguments.append(("ttl", _duration(view.ttl)))
    return _Call("FeatureView", [*arguments, *_people(view)])


def _entity_name(view: features.FeatureView) -> str:
    return view.entity if isinstance(view.entity, str) else view.entity.name


def _field(field: features.Field) -> _Call:
    arguments: list[Any] = [_text(field.name), _type(field.dtype)]
    if field.description:
        arguments.append(("description", _text(field.description)))
    if field.tags:
        arguments.append(("tags", _pairs(field.tags)))
    return _Call("Field", arguments)


def _feature_set(made: features.FeatureSet, names: _Names) -> _Call:
    arguments: list[Any] = [
        _text(made.name),
        _Call("", [_feature(e, names) for e in made.features]),
    ]
    if made.request_fields:
        request = [
            _Call("RequestField", [_text(each.name), _type(each.dtype)])
            for each in made.request_fields
        ]
        arguments.append(("request_fields", _Call("", request)))
    if made.derived:
        arguments.append(("derived", _Call("", [_derived(each) for each in made.derived])))
    return _Call("FeatureSet", [*arguments, *_people(made)])


def _feature(feature: features.Feature, names: _Names) -> _Code:
    if not feature.alias and not feature.keys:
        return f"{names.of(names.views[feature.view])}[{_text(feature.field)}]"
    arguments: list[Any] = [_text(feature.view), _text(feature.field)]
    if feature.alias:
        arguments.append(("alias", _text(feature.alias)))
    if feature.keys:
        arguments.append(("keys", _pairs(feature.keys)))
    return _Call("Feature", arguments)


def _derived(derived: features.Derived) -> _Call:
    arguments: list[Any] = [_text(derived.name), derived.function_name.rpartition(":")[2]]
    if derived.inputs:
        arguments.append(_pairs(derived.inputs))
    return _Call("Derived", arguments)


def _people(described: Any) -> list[tuple[str, str]]:
    found = [(name, getattr(described, name)) for name in ("description", "owner")]
    told = [(name, _text(text)) for name, text in found if text]
    return [*told, ("tags", _pairs(described.tags))] if described.tags else told


def _pairs(pairs: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{_text(key)}: {_text(text)}' for key, text in pairs.items())}}}"


def _text(text: str) -> str:
    """Returns a text as a literal, in double quotes where that needs no escapes."""
    literal = repr(text)
    return f'"{literal[1:-1]}"' if literal.startswith("'") and '"' not in text else literal


def _type(dtype: DataType) -> str:
    return f"DataType.{dtype.name}"


def _duration(duration: timedelta) -> str:
    parts = {
        "days": duration.days,
        "seconds": duration.seconds,
        "microseconds": duration.microseconds,
    }
    told = ", ".join(f"{name}={value}" for name, value in parts.items() if value)
    return f"timedelta({told})"


def _assign(name: str, code: _Call) -> str:
    return f"{name} = {_shown(code, len(name) + 3, 0)}\n"


def _shown(code: _Code, column: int, indent: int) -> str:
    """Writes code in one line if it fits, else each argument in a line of its own."""
    if isinstance(code, str):
        return code
    flat = _in_one_line(code)
    if column + len(flat) < _WIDTH:
        return flat
    begin, end = (f"{code.name}(", ")") if code.name else ("[", "]")
    lines = []
    for each in code.arguments:
        name, value = each if isinstance(each, tuple) else ("", each)
        head = " " * (indent + 4) + (f"{name}=" if name else "")
        lines.append(f"{head}{_shown(value, len(head) + 1, indent + 4)},\n")
    return f"{begin}\n{''.join(lines)}{' ' * indent}{end}"


def _in_one_line(code: _Code) -> str:
    if isinstance(code, str):
        return code
    parts = []
    for each in code.arguments:
        name, value = each if isinstance(each, tuple) else ("", each)
        parts.append(f"{name}={_in_one_line(value)}" if name else _in_one_line(value))
    joined = ", ".join(parts)
    return f"{code.name}({joined})" if code.name else f"[{joined}]"
