"""From what a Feast repository defines to definitions of Setpoint, and what that loses.

Input is what `reader` tells. Everything that is found gets a verdict: it maps exactly, approximately, or not at
all, and in the latter cases why.
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NamedTuple

import setpoint_features as features
from setpoint_cli.feast import rewriting
from setpoint_columns import DataType

Told = Mapping[str, Any]
"""A part of what `reader` tells."""

Key = tuple[str, DataType]

_EXACT: Final = {
    "Bool": DataType.BOOL,
    "Int32": DataType.INT32,
    "Int64": DataType.INT64,
    "Float32": DataType.FLOAT32,
    "Float64": DataType.FLOAT64,
    "String": DataType.STRING,
}
_APPROXIMATE: Final = {
    "UnixTimestamp": (
        DataType.TIMESTAMP,
        "Feast's online store keeps whole seconds, here microseconds are kept on both sides",
    ),
    "ZonedTimestamp": (DataType.TIMESTAMP, "the time zone of each value is not kept"),
    "Uuid": (DataType.STRING, "a UUID is kept as text"),
    "TimeUuid": (DataType.STRING, "a UUID is kept as text"),
    "Decimal": (DataType.STRING, "a decimal is kept as text"),
    "Json": (DataType.STRING, "JSON is kept as text, unchecked"),
}
_VALUE_TYPES: Final = {
    "BOOL": "Bool",
    "BYTES": "Bytes",
    "DOUBLE": "Float64",
    "FLOAT": "Float32",
    "INT32": "Int32",
    "INT64": "Int64",
    "STRING": "String",
    "UNIX_TIMESTAMP": "UnixTimestamp",
    "UUID": "Uuid",
}
"""Types of entities, as fields call them."""

_KEY_TYPES: Final = frozenset({DataType.INT32, DataType.INT64, DataType.STRING})
_RESERVED: Final = frozenset({"event_time", "created_time"})
_NAME, _COLUMN = re.compile(r"[^a-z0-9_-]"), re.compile(r"[^A-Za-z0-9_.-]")
_TAG = re.compile(r"[A-Za-z0-9_./-]{1,64}")
_LONGEST, _LONGEST_TAG, _LONGEST_TEXT, _MOST_TAGS = 64, 256, 4096, 64
_SECOND: Final = 1_000_000
GLOBAL: Final = "global"
"""Name of the entity of views that have none."""

GENERAL: Final = (
    """Joins take a value from its arrival on (created_time <= T). Feast goes by event times alone unless it is
    asked with filter_by_created_timestamp; as_of_event_time asks for that here.""",
    """Every row of a spine is answered, in its place. Feast's file store leaves out rows of which only later
    values are known, and all but one of rows with equal keys and times.""",
    """Reads name a feature set: what callers of Feast list by hand becomes a feature set of its own.""",
    """There are no projects and no data sources: rows are written with WriteFeatures.""",
)
"""Differences that every repository meets."""


class Fit(enum.StrEnum):
    """How well something maps."""

    EXACT = "exactly"
    APPROXIMATE = "approximately"
    NONE = "not at all"


@dataclass(frozen=True, slots=True)
class Finding:
    """What becomes of one thing."""

    kind: str
    name: str
    fit: Fit
    becomes: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """A transformation to be written down."""

    name: str
    dtype: DataType
    expression: str
    parameters: tuple[str, ...]
    output: str
    origin: str
    """The on-demand view of which it is that output."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Everything that a repository becomes."""

    definitions: features.Definitions
    functions: Sequence[Function]
    findings: Sequence[Finding]

    def count(self, fit: Fit) -> int:
        """Returns how many things map so well."""
        return sum(each.fit is fit for each in self.findings)


@dataclass(slots=True)
class _Computed:
    """An on-demand view that is taken over: its outputs, and what they read."""

    functions: dict[str, Function]
    outputs: dict[str, rewriting.Rewritten]
    origins: dict[str, tuple[str, str]]
    """Input to the view and field that it is."""
    request: dict[str, DataType]


def map_repository(told: Told, module: str, key_types: Mapping[str, DataType]) -> Mapped:
    """Maps a repository.

    Args:
        told: What `reader` tells.
        module: Module in which its functions are going to be.
        key_types: Types of join keys that the repository does not tell.
    """
    return _Mapper(told, module, key_types).map()


@dataclass(slots=True)
class _Mapper:
    """Holds what is known so far; entities come first, services last."""

    told: Told
    module: str
    key_types: Mapping[str, DataType]
    findings: list[Finding] = field(default_factory=list)
    entities: dict[tuple[str, ...], features.Entity] = field(default_factory=dict)
    views: dict[str, features.FeatureView] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    """For each view, field of Feast to field here."""
    computed: dict[str, _Computed] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)
    sets: list[features.FeatureSet] = field(default_factory=list)

    def map(self) -> Mapped:
        """Goes through everything."""
        self._entities()
        for each in self.told["views"]:
            self._view(each)
        for each in self.told["on_demand"]:
            self._on_demand(each)
        for each in self.told["services"]:
            self._service(each)
        self._others()
        definitions = features.Definitions.of(
            [*self.entities.values(), *self.views.values(), *self.sets]
        )
        return Mapped(definitions, self.functions, self.findings)

    # Entities.

    def _entities(self) -> None:
        for each in self.told["entities"]:
            made, reasons = self._key(each)
            if made is None:
                self._found("entity", each["name"], Fit.NONE, reasons=reasons)
                continue
            name, renamed = _named(each["name"], (known.name for known in self.entities.values()))
            described, lost = _people(each)
            reasons += [*renamed, *lost]
            entity = features.Entity(name, dict([made]), **described)
            self.entities[each["name"],] = entity
            self._found("entity", each["name"], _fit(reasons), f"entity {name}", reasons)

    def _key(self, told: Told) -> tuple[Key | None, list[str]]:
        """Returns the key of an entity: by its own type, or by those of the views that have it."""
        key = told["key"]
        types = {_VALUE_TYPES.get(told["type"], "")} - {""}
        for view in self.told["views"]:
            if told["name"] in view["entities"]:
                types |= {each["type"] for each in view["keys"] if each["name"] == key}
        if types == {"Int32", "Int64"}:
            types = {"Int64"}  # One number is one key.
        if key in self.key_types:
            return (key, self.key_types[key]), []
        if not types:
            return None, [self._why_untyped(told)]
        if len(types) > 1:
            return None, [f"{key} has several types: {', '.join(sorted(types))}"]
        if key in _RESERVED or _COLUMN.search(key):
            return None, [f"no key can be called {key!r}"]
        kind = types.pop()
        dtype, reason = _type(kind)
        if dtype not in _KEY_TYPES:
            return None, [f"{key} is of type {kind}, and a key is an integer or a text"]
        return (key, dtype), [reason] if reason else []

    def _why_untyped(self, told: Told) -> str:
        key = told["key"]
        views = [each for each in self.told["views"] if told["name"] in each["entities"]]
        failures = sorted({each["failure"] for each in views} - {""})
        why = "".join(f" ({failure})" for failure in failures)
        return f"the type of {key} cannot be told{why}: give --key-type {key}=int64, or another"

    def _entity_of(self, told: Told) -> features.Entity | str:
        """Returns the entity of a view, or why there is none."""
        names = tuple(sorted(told["entities"]))
        if names not in self.entities:
            missing = [name for name in names if (name,) not in self.entities]
            if missing:
                return f"its entity {missing[0]} does not map"
            parts = [self.entities[name,] for name in told["entities"]]
            keys = {key: dtype for part in parts for key, dtype in part.keys.items()}
            wanted = "-".join(self.entities[name,].name for name in names) or GLOBAL
            name, _ = _named(wanted, (known.name for known in self.entities.values()))
            self.entities[names] = features.Entity(name, keys)
            together = ", ".join(told["entities"]) or "none"
            self._found("entity", together, Fit.EXACT, f"entity {name}")
        return self.entities[names]

    # Views of stored values.

    def _view(self, told: Told) -> None:
        entity = self._entity_of(told)
        if isinstance(entity, str):
            self._found("view", told["name"], Fit.NONE, reasons=[entity])
            return
        fields, reasons = self._fields(told, entity)
        if told["ttl"] is not None and told["ttl"] < 0:
            self._found("view", told["name"], Fit.NONE, reasons=["its TTL is negative"])
            return
        if not fields:
            why = told["failure"] or "none of its fields maps"
            self._found("view", told["name"], Fit.NONE, reasons=[why])
            return
        name, renamed = _named(told["name"], (known.name for known in self.views.values()))
        described, lost = _people(told)
        view = features.FeatureView(
            name,
            entity,
            list(fields.values()),
            ttl=timedelta(microseconds=told["ttl"]) if told["ttl"] else None,
            **described,
        )
        self.views[told["name"]] = view
        self.columns[told["name"]] = {each: found.name for each, found in fields.items()}
        reasons += [*renamed, *_of_view(told), *lost]
        becomes = f"view {name} of {entity.name}"
        self._found("view", told["name"], _fit(reasons), becomes, reasons)

    def _fields(
        self, told: Told, entity: features.Entity
    ) -> tuple[dict[str, features.Field], list[str]]:
        """Returns the fields that map by their names in Feast, and what is wrong with the others."""
        fields: dict[str, features.Field] = {}
        left_out = []
        for each in told["fields"]:
            path = f"{told['name']}.{each['name']}"
            dtype, reason = _type(each["type"])
            if dtype is None:
                left_out.append(each["name"])
                self._found("field", path, Fit.NONE, reasons=[reason])
                continue
            taken = [*entity.keys, *(found.name for found in fields.values())]
            name, renamed = _column(each["name"], taken)
            described, lost = _people({**each, "owner": ""})
            described.pop("owner")
            reasons = [*([reason] if reason else []), *renamed, *lost]
            fields[each["name"]] = features.Field(name, dtype, **described)
            self._found("field", path, _fit(reasons), f"{name} {dtype.name}", reasons)
        return fields, [f"without {', '.join(left_out)}"] if left_out else []

    # On-demand views.

    def _on_demand(self, told: Told) -> None:
        kind = "on-demand view"
        outputs = {each["name"]: _type(each["type"])[0] for each in told["fields"]}
        try:
            computed = self._compute(told, outputs)
        except rewriting.NotPlainError as error:
            self._found(kind, told["name"], Fit.NONE, reasons=[str(error)])
            return
        self.computed[told["name"]] = computed
        reasons = [
            "its function is rewritten over columns: compare both; where an input is null, so is the result"
        ]
        if told["stored"]:
            reasons.append("it is computed when it is asked for, not when rows are written")
        becomes = ", ".join(each.name for each in computed.functions.values())
        self._found(kind, told["name"], Fit.APPROXIMATE, f"transformation {becomes}", reasons)

    def _compute(self, told: Told, outputs: Mapping[str, DataType | None]) -> _Computed:
        if told["aggregations"]:
            raise rewriting.NotPlainError("it aggregates")
        if told["mode"] not in ("pandas", "python"):
            raise rewriting.NotPlainError(f"a function in mode {told['mode']} has no counterpart")
        untyped = [name for name, dtype in outputs.items() if dtype is None]
        if untyped:
            raise rewriting.NotPlainError(f"its output {untyped[0]} has no type here")
        plain = rewriting.rewrite(told["source"], list(outputs))
        origins, request = self._inputs(told)
        for each in plain.values():
            for column in each.parameters.values():
                if column not in origins and column not in request:
                    raise rewriting.NotPlainError(f"its input {column} does not map")
        functions = {}
        for output, dtype in outputs.items():
            if dtype is not None:
                functions[output] = self._function(told["name"], output, dtype, plain[output])
        return _Computed(functions, plain, origins, request)

    def _function(
        self, view: str, output: str, dtype: DataType, made: rewriting.Rewritten
    ) -> Function:
        """Returns the function of an output, which several views may share."""
        parameters = tuple(made.parameters)
        for each in self.functions:
            same = (each.output, each.dtype, each.expression, each.parameters)
            if same == (output, dtype, made.expression, parameters):
                return each
        name = rewriting.identifier(output, {each.name for each in self.functions})
        self.functions.append(Function(name, dtype, made.expression, parameters, output, view))
        return self.functions[-1]

    def _inputs(self, told: Told) -> tuple[dict[str, tuple[str, str]], dict[str, DataType]]:
        origins = {
            name: (each["view"], name)
            for each in told["views"]
            for name in each["features"]
            if name in self.columns.get(each["view"], {})
        }
        typed = {each["name"]: _type(each["type"])[0] for each in told["request"]}
        return origins, {name: dtype for name, dtype in typed.items() if dtype is not None}

    # Feature services.

    def _service(self, told: Told) -> None:
        build = _Set(self, told)
        made, reasons = build.build()
        if made is None:
            self._found("feature service", told["name"], Fit.NONE, reasons=reasons)
            return
        self.sets.append(made)
        becomes = f"feature set {made.name}"
        self._found("feature service", told["name"], _fit(reasons), becomes, reasons)

    # Everything else.

    def _others(self) -> None:
        for each in self.told["sources"]:
            if each["kind"] == "RequestSource":
                reason = "request fields of the feature sets that need them"
                self._found("source", each["name"], Fit.EXACT, reason)
            else:
                self._found("source", each["name"], Fit.NONE, reasons=[_of_source(each)])
        for name in self.told["labels"]:
            reason = "what really happened is recorded beside predictions, with IngestOutcomes"
            self._found("label view", name, Fit.NONE, reasons=[reason])
        for name in self.told["permissions"]:
            reason = "who may call is the network's and the gateway's to decide"
            self._found("permission", name, Fit.NONE, reasons=[reason])

    def _found(
        self, kind: str, name: str, fit: Fit, becomes: str = "", reasons: Iterable[str] = ()
    ) -> None:
        self.findings.append(Finding(kind, name, fit, becomes, tuple(reasons)))


class _Taken(NamedTuple):
    """One feature of a service."""

    view: str
    field: str
    alias: str
    """What Feast calls the view here."""
    keys: tuple[tuple[str, str], ...]


class _Set:
    """One feature service on its way to a feature set."""

    def __init__(self, mapper: _Mapper, told: Told) -> None:
        self._mapper = mapper
        self._told = told
        self._wanted: list[_Taken] = []
        self._derived: dict[str, tuple[_Computed, str]] = {}
        self._reasons: list[str] = []

    def build(self) -> tuple[features.FeatureSet | None, list[str]]:
        """Returns the set, if there is anything in it, and what it loses."""
        for each in [*self._told["views"], *map(_reference, self._told["references"])]:
            self._take(each)
        added = self._add_inputs()
        if not self._wanted and not self._derived:
            return None, [*self._reasons, "nothing of it maps"]
        if added:
            self._reasons.append(f"it holds {', '.join(added)} as well, which its functions read")
        names = self._names()
        made = [self._feature(each, column) for each, column in names.items()]
        self._drop_clashes(names.values())
        if self._derived:
            functions = ", ".join(self._derived)
            self._reasons.append(f"{functions}: computed by functions that are rewritten")
        request = self._request()
        derived = self._functions(names, {*names.values(), *request})
        name, renamed = _named(self._told["name"], (each.name for each in self._mapper.sets))
        described, lost = _people(self._told)
        self._reasons += [*renamed, *lost]
        fields = [features.RequestField(name, dtype) for name, dtype in request.items()]
        return features.FeatureSet(name, made, fields, derived, **described), self._reasons

    def _feature(self, taken: _Taken, column: str) -> features.Feature:
        name = self._mapper.columns[taken.view][taken.field]
        view = self._mapper.views[taken.view].name
        return features.Feature(view, name, "" if column == name else column, dict(taken.keys))

    def _drop_clashes(self, columns: Iterable[str]) -> None:
        """Leaves out functions of which a request field has the name of a feature: it would read that."""
        taken = set(columns)
        for output, (computed, name) in list(self._derived.items()):
            read = set(computed.outputs[name].parameters.values()) - computed.origins.keys()
            for column in sorted(read & taken):
                self._reasons.append(
                    f"without {output}: its request field {column} is a feature, too"
                )
                self._derived.pop(output, None)

    def _take(self, told: Told) -> None:
        view, wanted = told["view"], told["features"]
        if told["version"] is not None:
            self._reasons.append(
                f"{view} is taken as it is defined now, not as version {told['version']}"
            )
        if view in self._mapper.computed:
            computed = self._mapper.computed[view]
            for name in wanted or computed.functions:
                self._derived.setdefault(name, (computed, name))
            return
        columns = self._mapper.columns.get(view)
        if columns is None:
            self._reasons.append(f"without {view}, which does not map")
            return
        missing = [name for name in wanted if name not in columns]
        if missing:
            self._reasons.append(f"without {', '.join(missing)} of {view}")
        for name in wanted or columns:
            keys = tuple(sorted(told["keys"].items()))
            feature = _Taken(view, name, told["alias"] or view, keys)
            if name in columns and feature not in self._wanted:
                self._wanted.append(feature)

    def _add_inputs(self) -> list[str]:
        """Adds the features that functions read and the service does not hold; returns their names."""
        added = []
        for computed, output in self._derived.values():
            for column in computed.outputs[output].parameters.values():
                if column in computed.origins and self._feature_of(computed, column) is None:
                    view, name = computed.origins[column]
                    self._wanted.append(_Taken(view, name, view, ()))
                    added.append(name)
        return added

    def _feature_of(self, computed: _Computed, column: str) -> _Taken | None:
        """Returns the feature of the set that an input of a function is."""
        origin = computed.origins[column]
        found = (each for each in self._wanted if each[:2] == origin and not each.keys)
        return next(found, None)

    def _names(self) -> dict[_Taken, str]:
        """Returns the column of each feature: its field's name or, where several share it, Feast's full name."""
        plain = [self._mapper.columns[each.view][each.field] for each in self._wanted]
        names: dict[_Taken, str] = {}
        for each, column in zip(self._wanted, plain, strict=True):
            if plain.count(column) > 1:
                column, _ = _column(f"{each.alias}__{each.field}", names.values())
            names[each] = column
        return names

    def _request(self) -> dict[str, DataType]:
        return {
            column: computed.request[column]
            for computed, output in self._derived.values()
            for column in computed.outputs[output].parameters.values()
            if column in computed.request and column not in computed.origins
        }

    def _functions(
        self,
        names: Mapping[_Taken, str],
        taken: Iterable[str],
    ) -> list[features.Derived]:
        used = set(taken)
        made = []
        for output, (computed, name) in self._derived.items():
            inputs = {}
            for parameter, column in computed.outputs[name].parameters.items():
                if column in computed.origins:
                    feature = self._feature_of(computed, column)
                    source = column if feature is None else names[feature]
                else:
                    source = column
                if source != parameter:
                    inputs[parameter] = source
            column, _ = _column(output, used)
            used.add(column)
            function = f"{self._mapper.module}:{computed.functions[name].name}"
            made.append(features.Derived(column, function, inputs))
        return made


def _reference(text: str) -> dict[str, Any]:
    """Reads `view@v2:feature`."""
    view, _, name = text.partition(":")
    view, _, version = view.partition("@")
    return {
        "view": view,
        "alias": "",
        "features": [name] if name else [],
        "keys": {},
        "version": version.removeprefix("v") if version not in ("", "latest") else None,
    }


def _type(text: str) -> tuple[DataType | None, str]:
    """Returns the type that stands for one of Feast, and what that loses, or why there is none."""
    if text in _EXACT:
        return _EXACT[text], ""
    if text in _APPROXIMATE:
        return _APPROXIMATE[text]
    return None, f"there are no values of type {text} here"


def _of_view(told: Told) -> list[str]:
    """Tells in what a view behaves differently here."""
    reasons = []
    ttl, source = told["ttl"] or 0, told["source"]
    if ttl:
        reasons.append(
            "a value older than its TTL is not served, online as little as offline: Feast's Python server goes on "
            "serving it as present"
        )
    if ttl % _SECOND:
        reasons.append(
            "its TTL counts to the microsecond: Feast's SQL stores cut it to whole seconds, and 0 to never"
        )
    if source is not None and not source["created"]:
        reasons.append(
            "its source has no time of creation: of rows with equal event times the last one written wins, and a "
            "past row is to be written with a created_time, or it is known from now on only"
        )
    if told["transformed"] or told["derived_from"]:
        reasons.append(
            "its rows are to be computed before they are written: its function is not taken over"
        )
    if told["aggregations"]:
        wanted = ", ".join(f"{each['function']}({each['column']})" for each in told["aggregations"])
        reasons.append(
            f"its aggregates ({wanted}) are to be written, or defined as windows over a view of its events"
        )
    if not told["online"]:
        reasons.append("it is kept online, too")
    if not told["enabled"]:
        reasons.append("it is disabled in Feast and would be served here")
    return reasons


def _of_source(told: Told) -> str:
    """Tells how rows of a source are written."""
    columns = [f"{told['time'] or 'its time'} as event_time"]
    if told["created"]:
        columns.append(f"{told['created']} as created_time")
    columns += [f"{one} as {other}" for one, other in told["columns"].items()]
    return f"write the rows of this {told['kind']} with WriteFeatures: {', '.join(columns)}"


def _people(told: Told) -> tuple[dict[str, Any], list[str]]:
    """Returns what is for people, and what of it does not fit."""
    lost = []
    texts = {}
    for name in ("description", "owner"):
        texts[name] = told[name][:_LONGEST_TEXT]
        if texts[name] != told[name]:
            lost.append(f"its {name} is cut")
    kept = {
        key: text
        for key, text in told["tags"].items()
        if _TAG.fullmatch(key) and len(text) <= _LONGEST_TAG
    }
    kept = dict(list(kept.items())[:_MOST_TAGS])
    gone = [key for key in told["tags"] if key not in kept]
    if gone:
        lost.append(f"without its tags {', '.join(map(repr, gone))}")
    return {**texts, "tags": kept}, lost


def _named(text: str, taken: Iterable[str]) -> tuple[str, list[str]]:
    """Returns a name of a definition that is not taken, and whether that is another one."""
    return _free(text, _NAME.sub("_", text.lower()), taken)


def _column(text: str, taken: Iterable[str]) -> tuple[str, list[str]]:
    """Returns a name of a column that is not taken, and whether that is another one."""
    name = _COLUMN.sub("_", text)
    return _free(text, f"{name}_" if name in _RESERVED else name, taken)


def _free(text: str, wanted: str, taken: Iterable[str]) -> tuple[str, list[str]]:
    used = set(taken)
    name, number = wanted[:_LONGEST] or "_", 2
    while name in used:
        ending = f"_{number}"
        name, number = wanted[: _LONGEST - len(ending)] + ending, number + 1
    return name, [] if name == text else [f"it is called {name}"]


def _fit(reasons: Sequence[str]) -> Fit:
    return Fit.APPROXIMATE if reasons else Fit.EXACT
