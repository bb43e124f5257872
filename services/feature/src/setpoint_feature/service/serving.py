"""Online reads: one round trip for all entities and views of a feature set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Columns
from setpoint_feature import ports
from setpoint_feature.domain import assemble, definitions, online, plan, visibility
from setpoint_feature.service import deriving, snapshot
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

MAX_ROWS: Final = 10_000
_FIELD: Final = "entities"


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The keys of one group: each distinct one once, and for each row which."""

    keys: list[bytes]
    rows: npt.NDArray[np.intp]


class OnlineReader:
    """Answers from the online store alone."""

    def __init__(
        self,
        store: ports.OnlineStore,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
        max_bytes: int,
    ) -> None:
        """Prepares; no answer is larger than about `max_bytes`."""
        self._store = store
        self._known = known
        self._clock = clock
        self._max_bytes = max_bytes
        self._deriver = deriving.Deriver()

    async def read(
        self, name: str, version: str, entities: Columns, as_of_times: Sequence[int]
    ) -> tuple[definitions.FeatureSet, assemble.Served]:
        """Returns the features of entities, row by row.

        Args:
            name: Name of the feature set.
            version: Its version, or empty for the latest.
            entities: The key columns; others are ignored.
            as_of_times: The time of each row, one for all, or none for now.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND.
            InvalidArgumentError: A key or request column is missing or of another type, or there are too many rows.
            FailedPreconditionError: TRANSFORMATION_NOT_FOUND or TRANSFORMATION_MISMATCH.
            InternalError: TRANSFORMATION_FAILED.
            UnavailableError: ONLINE_STORE_UNAVAILABLE, also while its copies are being rebuilt.
        """
        try:
            compiled = self._known.catalog.plan(name, version)
        except errors.NotFoundError:
            compiled = await self._known.find(lambda found: found.plan(name, version))
        self._check_size(compiled, entities.rows)
        times = self._times(as_of_times, entities.rows)
        lookups = [_look_up(group, entities) for group in compiled.groups]
        recipe = compiled.recipe
        given = None if recipe is None else recipe.given(entities, _FIELD)
        views = _views(compiled)
        marks, values = await self._store.read(
            [view.view.version for view in views],
            [
                (group.view.view.version, lookup.keys)
                for group, lookup in zip(compiled.groups, lookups, strict=True)
            ],
        )
        self._check_complete(views, marks)
        winners = [
            online.judge(group.view, found, lookup.rows, times)
            for group, lookup, found in zip(compiled.groups, lookups, values, strict=True)
        ]
        served = assemble.serve(compiled, entities.rows, winners)
        if recipe is not None and given is not None:
            served = await self._deriver.derive(recipe, served, given)
        return compiled.feature_set, served

    def _check_size(self, compiled: plan.Plan, rows: int) -> None:
        limit = min(MAX_ROWS, self._max_bytes // max(1, compiled.row_bytes))
        if rows > limit:
            raise errors.invalid(
                f"{_FIELD}.rows",
                rows,
                f"must be at most {limit} for this feature set",
                errors.Reason.TOO_LARGE,
            )

    def _times(self, given: Sequence[int], rows: int) -> visibility.Times:
        if len(given) == rows:
            return np.array(given, np.int64)
        if len(given) > 1:
            raise errors.invalid(
                "as_of_times",
                f"{len(given)} times",
                f"must be none, one, or one for each of {rows} rows",
            )
        return np.full(rows, given[0] if given else self._clock.now_us(), np.int64)

    def _check_complete(
        self, views: Sequence[plan.CompiledView], marks: Sequence[int | None]
    ) -> None:
        """Refuses to take an online copy for the whole while it is being rebuilt.

        Without this, "not copied yet" would be served as "nothing is known".
        """
        for view, mark in zip(views, marks, strict=True):
            if mark is None and self._known.last_sequences.get(view.number, 0) > 0:
                raise errors.UnavailableError(
                    errors.Reason.ONLINE_STORE_UNAVAILABLE,
                    f"the online copy of the view {view.view.name!r} is being rebuilt",
                    metadata={"view": view.view.name},
                    retry_after_seconds=1.0,
                )


def _views(compiled: plan.Plan) -> list[plan.CompiledView]:
    """Returns the views of a plan, each once."""
    return list({group.view.number: group.view for group in compiled.groups}.values())


def _look_up(group: plan.Group, entities: Columns) -> _Lookup:
    keys = group.view.codec.encode(entities, group.key_columns, _FIELD)
    positions: dict[bytes, int] = {}
    # Rows that came together often share a key (a carrier, an airport); it travels once. A null
    # key is at position -1, where nothing is.
    rows = [-1 if key is None else positions.setdefault(key, len(positions)) for key in keys]
    return _Lookup(list(positions), np.array(rows, np.intp))
