"""What applying definitions would do: to each of them, and to the models that live on them."""

import dataclasses
import enum
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from setpoint_feature.domain import (
    catalog,
    definitions,
    difference,
    registration,
    retention,
    wording,
)
from setpoint_runtime import errors

SetVersion = tuple[str, str]
"""Name and version of a feature set."""

_E = TypeVar("_E", bound=errors.SetpointError)
_D = TypeVar("_D", definitions.Entity, definitions.FeatureView, definitions.FeatureSet)


class Kind(enum.Enum):
    """Kinds of definitions, in the order in which they are applied."""

    ENTITY = "entity"
    VIEW = "view"
    FEATURE_SET = "feature_set"


class Action(enum.Enum):
    """What happens to a definition."""

    UNCHANGED = "unchanged"
    CREATE = "create"
    METADATA = "metadata"
    NEW_VERSION = "new_version"
    RESTORE = "restore"


class Severity(enum.Enum):
    """How a consequence is dealt with."""

    NOTE = "note"
    WARNING = "warning"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Use:
    """A live model version and the exact feature set that it reads."""

    model: str
    version: int
    feature_set: SetVersion


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a change does to others."""

    severity: Severity
    message: str
    feature_sets: tuple[SetVersion, ...] = ()
    models: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one definition."""

    kind: Kind
    name: str
    action: Action
    before: str
    """Its latest version now; empty for entities and new definitions."""
    after: str
    differences: tuple[difference.Difference, ...]
    consequences: tuple[Consequence, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """A change with the definition that it leaves."""

    change: Change
    definition: definitions.Definition


@dataclass(frozen=True, slots=True)
class Wanted:
    """Definitions that are applied together."""

    entities: Sequence[definitions.Entity] = ()
    views: Sequence[definitions.FeatureView] = ()
    feature_sets: Sequence[definitions.FeatureSet] = ()


def plan(known: catalog.Catalog, wanted: Wanted, now: int) -> list[Planned]:
    """Returns what applying definitions would do to them, in the order in which they are applied.

    Raises:
        InvalidArgumentError: Names everything that is wrong, each by the place of its definition.
        AlreadyExistsError: NAME_TAKEN, when an entity has other keys and nothing else is wrong.
        FailedPreconditionError: TRANSFORMATION_MISMATCH, when a function is another here.
    """
    work = _Work(known.copy(), now)
    work.add(Kind.ENTITY, "entities", wanted.entities, registration.entity, lambda each: ())
    work.add(Kind.VIEW, "views", wanted.views, registration.view, lambda each: (each.entity,))
    work.add(
        Kind.FEATURE_SET,
        "feature_sets",
        wanted.feature_sets,
        lambda known, each, now: registration.feature_set(known, each, now, known.functions),
        lambda each: [feature.view for feature in each.features],
    )
    work.refuse_if_wrong()
    return work.planned


class _Work:
    """Definitions applied one after the other to a catalog of one's own."""

    def __init__(self, known: catalog.Catalog, now: int) -> None:
        self._known = known
        self._now = now
        self._wrong: list[errors.SetpointError] = []
        self._failed: set[tuple[Kind, str]] = set()
        self.planned: list[Planned] = []

    def add(
        self,
        kind: Kind,
        path: str,
        wanted: Sequence[_D],
        rule: Callable[[catalog.Catalog, _D, int], _D],
        needs: Callable[[_D], Iterable[str]],
    ) -> None:
        """Applies the definitions of a kind; one that needs a wrong one is left to it."""
        below = Kind.ENTITY if kind is Kind.VIEW else Kind.VIEW
        first: dict[str, int] = {}
        for index, each in sorted(enumerate(wanted), key=_after_its_source):
            at = f"definitions.{path}[{index}]"
            if each.name in first:
                rule_text = f"must be there only once; {path}[{first[each.name]}] has the name too"
                self._note(errors.invalid(f"{at}.name", each.name, rule_text), "")
                continue
            first[each.name] = index
            if any((below, name) in self._failed for name in needs(each)) or (
                (kind, _source_of(each)) in self._failed
            ):
                self._failed.add((kind, each.name))
                continue
            try:
                stored = rule(self._known, each, self._now)
            except (errors.InvalidArgumentError, errors.AlreadyExistsError) as error:
                self._note(error, at)
                self._failed.add((kind, each.name))
                continue
            self.planned.append(Planned(_change(kind, self._known, stored), stored))
            self._known.update([catalog.Stored(stored, self._known.revision + 1)])

    def _note(self, error: errors.SetpointError, at: str) -> None:
        if not error.violations:
            error.violations = (errors.FieldViolation(f"{at}.keys", error.message),)
        self._wrong.append(placed(error, at) if at else error)

    def refuse_if_wrong(self) -> None:
        """Raises what was found, all of it in one error."""
        if not self._wrong:
            return
        first = self._wrong[0]
        found = [each for error in self._wrong for each in error.violations]
        told = "; ".join(f"{each.field}: {each.description}" for each in found[:_TOLD])
        more = f" (and {len(found) - _TOLD} more)" if len(found) > _TOLD else ""
        is_one = len({type(each) for each in self._wrong}) == 1
        kind = type(first) if is_one else errors.InvalidArgumentError
        raise kind(first.reason, f"{told}{more}", violations=found, metadata=first.metadata)


def _source_of(definition: definitions.Definition) -> str:
    """Returns the name of the view whose rows an aggregate view counts, empty for all else."""
    if isinstance(definition, definitions.FeatureView) and definition.aggregation is not None:
        return definition.aggregation.source
    return ""


def _after_its_source(item: tuple[int, definitions.Definition]) -> tuple[bool, int]:
    """Orders definitions as they were given, aggregate views behind the views that they name."""
    return bool(_source_of(item[1])), item[0]


_TOLD = 3
"""Violations in the text of an error; all of them are beside it."""
_HEAD = re.compile(r"^(entity|view|feature_set)\b")


def placed(error: _E, at: str) -> _E:
    """Returns an error about one definition that names fields by the definition's place among many."""
    error.violations = tuple(
        dataclasses.replace(each, field=_HEAD.sub(at, each.field)) for each in error.violations
    )
    return error


def _change(kind: Kind, known: catalog.Catalog, stored: definitions.Definition) -> Change:
    before = _latest(known, stored)
    old = "" if before is None else _version(before)
    new = _version(stored)
    if before is None:
        action = Action.CREATE
    elif registration.is_latest(known, stored):
        action = Action.UNCHANGED
    elif old == new:
        action = Action.METADATA
    else:
        action = Action.RESTORE if _exists(known, stored) else Action.NEW_VERSION
    differences = () if action is Action.UNCHANGED else difference.between(before, stored)
    if action is Action.METADATA:
        differences = tuple(dataclasses.replace(each, makes_version=False) for each in differences)
    return Change(kind, stored.name, action, old, new, differences)


def _latest(
    known: catalog.Catalog, stored: definitions.Definition
) -> definitions.Definition | None:
    if isinstance(stored, definitions.Entity):
        return known.entities.get(stored.name)
    if isinstance(stored, definitions.FeatureView):
        return known.views.latest.get(stored.name)
    return known.feature_sets.latest.get(stored.name)


def _exists(known: catalog.Catalog, stored: definitions.Definition) -> bool:
    if isinstance(stored, definitions.FeatureView):
        return known.views.find(stored.name, stored.version) is not None
    if isinstance(stored, definitions.FeatureSet):
        return known.feature_sets.find(stored.name, stored.version) is not None
    return False


def _version(definition: definitions.Definition) -> str:
    return "" if isinstance(definition, definitions.Entity) else definition.version


# Consequences.


def left(known: catalog.Catalog, planned: Iterable[Planned]) -> dict[str, list[SetVersion]]:
    """Returns, for each view that gets another version, the feature sets bound to the one it has now.

    These are the sets that no new row would reach.
    """
    versions = {
        each.change.name: each.change.before
        for each in planned
        if each.change.kind is Kind.VIEW
        and each.change.action in (Action.NEW_VERSION, Action.RESTORE)
    }
    # Where the rows of a version end up: in it, and in the aggregate views over it.
    moved = {(name, version): name for name, version in versions.items()}
    for view in known.views.by_version.values():
        wanted = view.aggregation
        if wanted is not None and versions.get(wanted.source) == wanted.source_version:
            moved.setdefault((view.name, view.version), wanted.source)
    found: dict[str, list[SetVersion]] = defaultdict(list)
    for key, feature_set in known.feature_sets.by_version.items():
        bound = ((each.view, each.view_version) for each in feature_set.features)
        for name in dict.fromkeys(moved[each] for each in bound if each in moved):
            found[name].append(key)
    return found


def judged(
    known: catalog.Catalog, planned: Sequence[Planned], uses: Collection[Use] | None
) -> list[Planned]:
    """Returns the plan with what follows for others.

    Args:
        known: The definitions as they are.
        planned: What happens to those that are applied.
        uses: The live models; None when nobody could say.
    """
    reached = left(known, planned)
    applied = {each.change.name for each in planned if each.change.kind is Kind.FEATURE_SET}
    made = []
    for each in planned:
        change = each.change
        if change.kind is Kind.VIEW:
            found = _of_view(known, change, reached.get(change.name, ()), applied, uses)
            found += _of_retention(known, each.definition)
            if change.action in (Action.CREATE, Action.NEW_VERSION):
                found += _of_windows(known, each.definition)
        elif change.kind is Kind.FEATURE_SET:
            found = _of_feature_set(change, uses)
        else:
            found = []
        made.append(
            dataclasses.replace(each, change=dataclasses.replace(change, consequences=tuple(found)))
        )
    return made


def _of_view(
    known: catalog.Catalog,
    change: Change,
    sets: Sequence[SetVersion],
    applied: Collection[str],
    uses: Collection[Use] | None,
) -> list[Consequence]:
    found = []
    for each in change.differences:
        if each.field.endswith(".sensitive") and each.after == "false":
            told = f"{each.field.removesuffix('.sensitive')} will appear in spans and logs"
            found.append(Consequence(Severity.WARNING, told))
    if change.action not in (Action.NEW_VERSION, Action.RESTORE):
        return found
    if uses is None and sets:
        told = (
            f"feature sets are bound to {_short(change.name, change.before)}, and the registry does not say "
            "whether live models read them"
        )
        found.append(Consequence(Severity.UNKNOWN, told, tuple(sets)))
    harmed = [use for use in uses or () if use.feature_set in set(sets)]
    if harmed:
        found.append(_refused(change, harmed))
    live = {use.feature_set for use in harmed}
    latest = known.feature_sets.latest
    stale = [
        key
        for key in sets
        if key not in live and key[0] not in applied and latest[key[0]].version == key[1]
    ]
    if stale:
        names = ", ".join(name for name, _ in stale)
        told = (
            f"{names}: stays bound to {_short(change.name, change.before)}, which gets no more rows; "
            "apply it as well to bind it anew"
        )
        found.append(Consequence(Severity.WARNING, told, tuple(stale)))
    if change.action is Action.NEW_VERSION:
        told = (
            f"starts empty; the rows written so far stay with {_short(change.name, change.before)}"
        )
        found.append(Consequence(Severity.NOTE, told))
    return found


def _of_retention(known: catalog.Catalog, wanted: definitions.Definition) -> list[Consequence]:
    """Tells of rows that go for good, the only thing that applying definitions cannot take back."""
    before = known.views.latest.get(wanted.name)
    if before is None or not isinstance(wanted, definitions.FeatureView) or not wanted.retention:
        return []
    if before.retention and wanted.retention >= before.retention:
        return []
    length = wording.duration(wanted.retention)
    told = (
        f"rows that nobody has been able to see for {length} are removed from the history for good"
    )
    return [Consequence(Severity.WARNING, told)]


def _of_windows(known: catalog.Catalog, wanted: definitions.Definition) -> list[Consequence]:
    """Tells from when on windows answer, where their source has lost rows before."""
    if not isinstance(wanted, definitions.FeatureView) or wanted.aggregation is None:
        return []
    made = wanted.aggregation
    source = known.views.find(made.source, made.source_version)
    retained = known.retained_of(made.source, made.source_version)
    if source is None or retained is None:
        return []
    since = wording.moment(retention.windows_from(source, made.fields, retained))
    told = f"answers from {since} on; retention has removed rows of {source.name} that windows before need"
    return [Consequence(Severity.NOTE, told)]


def _refused(change: Change, harmed: Sequence[Use]) -> Consequence:
    models = tuple(dict.fromkeys((use.model, use.version) for use in harmed))
    named = ", ".join(f"{model}/{version}" for model, version in models)
    told = (
        f"live model versions read {_short(change.name, change.before)}, and rows are written to the latest "
        f"version alone: {named} would get no new values of it. Give the changed view another name, or retire them"
    )
    sets = tuple(dict.fromkeys(use.feature_set for use in harmed))
    return Consequence(Severity.REFUSED, told, sets, models)


def _of_feature_set(change: Change, uses: Collection[Use] | None) -> list[Consequence]:
    if change.action not in (Action.NEW_VERSION, Action.RESTORE) or not uses:
        return []
    current = change.name, change.before
    models = tuple(
        dict.fromkeys((use.model, use.version) for use in uses if use.feature_set == current)
    )
    if not models:
        return []
    named = ", ".join(f"{model}/{version}" for model, version in models)
    told = f"{named}: goes on with {_short(change.name, change.before)}"
    return [Consequence(Severity.NOTE, told, (current,), models)]


def _short(name: str, version: str) -> str:
    return f"{name}@{version[:12]}"


def refusal(planned: Sequence[Planned]) -> errors.SetpointError | None:
    """Returns why a plan is not applied without force, None when it may be."""
    by_severity: dict[Severity, list[tuple[Change, Consequence]]] = defaultdict(list)
    for each in planned:
        for consequence in each.change.consequences:
            by_severity[consequence.severity].append((each.change, consequence))
    if refused := by_severity[Severity.REFUSED]:
        models = sorted({model for _, each in refused for model in each.models})
        return errors.FailedPreconditionError(
            errors.Reason.IN_USE,
            "; ".join(f"{change.name}: {each.message}" for change, each in refused[:3]),
            violations=[
                errors.FieldViolation(f"views[{change.name}]", each.message)
                for change, each in refused
            ],
            metadata={"models": ", ".join(f"{name}/{number}" for name, number in models)[:1000]},
        )
    if unknown := by_severity[Severity.UNKNOWN]:
        return errors.UnavailableError(
            errors.Reason.UNAVAILABLE,
            "; ".join(f"{change.name}: {each.message}" for change, each in unknown[:3]),
            retry_after_seconds=1.0,
        )
    return None
