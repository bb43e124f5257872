"""Use cases around definitions: register, read, list."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from setpoint_feature import ports
from setpoint_feature.domain import catalog, changes, definitions, derivation, registration
from setpoint_feature.service import planning, snapshot
from setpoint_runtime import clock as clocks
from setpoint_runtime import paging

_D = TypeVar("_D", definitions.Entity, definitions.FeatureView, definitions.FeatureSet)


@dataclass(frozen=True, slots=True)
class DescribedSet:
    """A feature set and what those who use it must know."""

    feature_set: definitions.FeatureSet
    key_columns: tuple[definitions.FieldSpec, ...]
    request_columns: tuple[definitions.FieldSpec, ...]
    """Request fields that its transformations read."""
    sensitive_columns: tuple[str, ...]


class DefinitionService:
    """Registers and answers definitions."""

    def __init__(
        self,
        store: ports.DefinitionStore,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
        planner: planning.Planner,
    ) -> None:
        """Uses a store for writing, a snapshot for reading, and a planner that keeps changes from live models."""
        self._planner = planner
        self._store = store
        self._known = known
        self._clock = clock

    async def register_entity(
        self, wish: ports.Wish, entity: definitions.Entity
    ) -> tuple[definitions.Entity, bool]:
        """Registers an entity; returns it as stored, and whether the call is a replay."""
        return await self._register(wish, registration.entity, entity)

    async def register_view(
        self, wish: ports.Wish, view: definitions.FeatureView
    ) -> tuple[definitions.FeatureView, bool]:
        """Registers a view; returns it as stored, and whether the call is a replay.

        Raises:
            FailedPreconditionError: IN_USE, when live models would get no new values.
            UnavailableError: Whether they would cannot be known.
        """
        await self._planner.allow(wish, changes.Wanted(views=[view]))
        return await self._register(wish, registration.view, view)

    async def register_feature_set(
        self, wish: ports.Wish, feature_set: definitions.FeatureSet
    ) -> tuple[definitions.FeatureSet, bool]:
        """Registers a feature set; returns it as stored, and whether the call is a replay."""
        rule = functools.partial(registration.feature_set, functions=self._known.catalog.functions)
        return await self._register(wish, rule, feature_set)

    async def _register(
        self, wish: ports.Wish, rule: Callable[[catalog.Catalog, _D, int], _D], wanted: _D
    ) -> tuple[_D, bool]:
        decide = functools.partial(rule, wanted=wanted, now=self._clock.now_us())  # type: ignore[call-arg]  # each rule names its arguments so.
        stored, replayed = await self._store.register(wish, decide)
        await self._known.refresh()
        return cast(_D, stored), replayed

    async def entity(self, name: str) -> definitions.Entity:
        """Returns an entity.

        Raises:
            NotFoundError: ENTITY_NOT_FOUND.
        """
        return await self._known.find(lambda found: found.entity(name))

    async def view(self, name: str, version: str) -> definitions.FeatureView:
        """Returns a version of a view; without a version the latest.

        Raises:
            NotFoundError: FEATURE_VIEW_NOT_FOUND.
        """
        compiled = await self._known.find(lambda found: found.view(name, version))
        return compiled.view

    async def feature_set(self, name: str, version: str) -> DescribedSet:
        """Returns a version of a feature set and what its requests carry.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND.
        """
        found = await self._known.find(lambda found: found.feature_set(name, version))
        catalog = self._known.catalog
        return DescribedSet(
            found,
            catalog.key_columns(found),
            derivation.request_columns(found),
            catalog.sensitive_columns(found),
        )

    def entities(self, size: int, token: str) -> tuple[list[definitions.Entity], str]:
        """Returns one page of entities by name, and the token of the next."""
        return _page("ListEntities", self._known.catalog.entities, size, token)

    def views(self, size: int, token: str) -> tuple[list[definitions.FeatureView], str]:
        """Returns one page of the latest views by name, and the token of the next."""
        return _page("ListFeatureViews", self._known.catalog.views.latest, size, token)

    def feature_sets(self, size: int, token: str) -> tuple[list[definitions.FeatureSet], str]:
        """Returns one page of the latest feature sets by name, and the token of the next."""
        return _page("ListFeatureSets", self._known.catalog.feature_sets.latest, size, token)


def _page(
    method: str, all_of_them: Mapping[str, _D], page_size: int, token: str
) -> tuple[list[_D], str]:
    size = paging.size(page_size)
    key = paging.decode(method, (), token, (str,))
    after = str(key[0]) if key else ""
    names = [name for name in sorted(all_of_them) if name > after]
    page = [all_of_them[name] for name in names[:size]]
    if len(names) <= size:
        return page, ""
    return page, paging.encode(method, (), (page[-1].name,))
