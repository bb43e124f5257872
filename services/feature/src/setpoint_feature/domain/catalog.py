"""All definitions at one moment, indexed for look-ups."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from setpoint_feature.domain import definitions, plan, retention, transformations
from setpoint_features import library
from setpoint_runtime import errors

_T = TypeVar("_T", definitions.FeatureView, definitions.FeatureSet)


@dataclass(frozen=True, slots=True)
class Stored:
    """A definition as it stands in the store."""

    definition: definitions.Definition
    revision: int
    """Grows with every registration that changes something; the greatest of a name is the latest."""
    number: int = 0
    """Of a view: its short name inside the history."""


class _Versions(Generic[_T]):
    """Versions of definitions of one kind, by name."""

    def __init__(self) -> None:
        self.by_version: dict[tuple[str, str], _T] = {}
        self.latest: dict[str, _T] = {}
        self._revisions: dict[str, int] = {}

    def put(self, definition: _T, revision: int) -> None:
        self.by_version[definition.name, definition.version] = definition
        if revision >= self._revisions.get(definition.name, 0):
            self._revisions[definition.name] = revision
            self.latest[definition.name] = definition

    def copy(self) -> "_Versions[_T]":
        made: _Versions[_T] = _Versions()
        made.by_version = dict(self.by_version)
        made.latest = dict(self.latest)
        made._revisions = dict(self._revisions)
        return made

    def find(self, name: str, version: str) -> _T | None:
        return self.by_version.get((name, version)) if version else self.latest.get(name)


class Catalog:
    """Definitions, with everything that is compiled from them.

    It only grows, and what it hands out is immutable, so readers need no lock.
    """

    def __init__(self, functions: library.Library = library.EMPTY) -> None:
        """Starts empty; `functions` are the transformations that this process has."""
        self.functions = functions
        self.entities: dict[str, definitions.Entity] = {}
        self.views: _Versions[definitions.FeatureView] = _Versions()
        self.feature_sets: _Versions[definitions.FeatureSet] = _Versions()
        self.revision = 0
        self.retained: Mapping[int, retention.Retained] = {}
        """What retention left of the history of each view that lacks rows, by the view's number."""
        self._compiled: dict[tuple[str, str], plan.CompiledView] = {}
        self._plans: dict[tuple[str, str], plan.Plan] = {}

    def update(self, stored: Iterable[Stored]) -> None:
        """Takes in definitions that are new or changed, entities and views before what names them."""
        for each in sorted(stored, key=_after_what_it_names):
            definition = each.definition
            self.revision = max(self.revision, each.revision)
            if isinstance(definition, definitions.Entity):
                self.entities[definition.name] = definition
            elif isinstance(definition, definitions.FeatureView):
                key = definition.name, definition.version
                self.views.put(definition, each.revision)
                known = self._compiled.get(key)
                number = each.number if known is None else known.number
                self._compiled[key] = plan.CompiledView(
                    definition, number, self._source(definition)
                )
            else:
                self.feature_sets.put(definition, each.revision)

    def copy(self) -> "Catalog":
        """Returns a catalog of its own with the same definitions, to try changes on."""
        made = Catalog(self.functions)
        made.entities = dict(self.entities)
        made.views = self.views.copy()
        made.feature_sets = self.feature_sets.copy()
        made.revision = self.revision
        made.retained = self.retained
        made._compiled = dict(self._compiled)
        return made

    def with_functions(self, functions: library.Library) -> "Catalog":
        """Returns the same definitions for a process that has these transformations."""
        made = self.copy()
        made.functions = functions
        return made

    def _source(self, view: definitions.FeatureView) -> plan.CompiledView | None:
        wanted = view.aggregation
        return None if wanted is None else self._compiled[wanted.source, wanted.source_version]

    def aggregates_of(self, number: int) -> list[plan.CompiledView]:
        """Returns every version of every aggregate view over the rows of a view."""
        return [
            each
            for each in self._compiled.values()
            if each.blueprint is not None and each.stream == number
        ]

    def retained_of(self, name: str, version: str) -> retention.Retained | None:
        """Returns what retention left of a version of a view, None where nothing is gone."""
        found = self._compiled.get((name, version))
        return None if found is None else self.retained.get(found.number)

    def compiled_views(self) -> list[plan.CompiledView]:
        """Returns every version of every view."""
        return list(self._compiled.values())

    def entity(self, name: str) -> definitions.Entity:
        """Returns an entity.

        Raises:
            NotFoundError: ENTITY_NOT_FOUND.
        """
        found = self.entities.get(name)
        if found is None:
            raise _not_found(errors.Reason.ENTITY_NOT_FOUND, "entity", name, "")
        return found

    def view(self, name: str, version: str = "") -> plan.CompiledView:
        """Returns a version of a view, compiled; without a version the latest.

        Raises:
            NotFoundError: FEATURE_VIEW_NOT_FOUND.
        """
        found = self.views.find(name, version)
        if found is None:
            raise _not_found(errors.Reason.FEATURE_VIEW_NOT_FOUND, "feature view", name, version)
        return self._compiled[found.name, found.version]

    def feature_set(self, name: str, version: str = "") -> definitions.FeatureSet:
        """Returns a version of a feature set; without a version the latest.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND.
        """
        found = self.feature_sets.find(name, version)
        if found is None:
            raise _not_found(errors.Reason.FEATURE_SET_NOT_FOUND, "feature set", name, version)
        return found

    def plan(self, name: str, version: str = "") -> plan.Plan:
        """Returns the plan of a feature set.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND.
            FailedPreconditionError: TRANSFORMATION_NOT_FOUND or TRANSFORMATION_MISMATCH.
        """
        feature_set = self.feature_set(name, version)
        key = feature_set.name, feature_set.version
        found = self._plans.get(key)
        if found is None:
            found = plan.compile_plan(feature_set, self._compiled, self.functions)
            self._plans[key] = found
        return found

    def unservable(self) -> list[str]:
        """Returns which feature sets, as they are now, this process has not the code for, and why."""
        found = []
        for each in self.feature_sets.latest.values():
            try:
                self.plan(each.name, each.version)
            except errors.FailedPreconditionError as error:
                found.append(f"feature set {each.name} cannot be served here: {error.message}")
        return found

    def sensitive_columns(self, feature_set: definitions.FeatureSet) -> tuple[str, ...]:
        """Returns the columns of a set that are marked as sensitive, or computed from such."""
        marked = set()
        for each in feature_set.features:
            view = self.views.by_version[each.view, each.view_version]
            if any(field.sensitive for field in view.fields if field.name == each.field):
                marked.add(each.column)
        for derived in transformations.ordered(feature_set):
            if not marked.isdisjoint(derived.inputs.values()):
                marked.add(derived.name)
        return tuple(sorted(marked))

    def key_columns(self, feature_set: definitions.FeatureSet) -> tuple[definitions.FieldSpec, ...]:
        """Returns the key columns that a request for a set must carry."""
        return plan.key_columns(feature_set, self.views.by_version)


def _not_found(reason: errors.Reason, kind: str, name: str, version: str) -> errors.NotFoundError:
    asked = f"{name}@{version}" if version else name
    metadata = {"name": name} | ({"version": version} if version else {})
    return errors.NotFoundError(reason, f"there is no {kind} {asked[:160]!r}", metadata=metadata)


def _after_what_it_names(item: Stored) -> tuple[bool, int]:
    """Orders definitions by revision, aggregate views last: their sources may have changed later."""
    definition = item.definition
    is_aggregate = (
        isinstance(definition, definitions.FeatureView) and definition.aggregation is not None
    )
    return is_aggregate, item.revision
