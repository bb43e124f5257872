"""The definitions this process knows, kept current, so that reads ask no database."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from setpoint_feature import ports
from setpoint_feature.domain import catalog
from setpoint_features import library
from setpoint_runtime import errors

_T = TypeVar("_T")


class Snapshot:
    """Definitions and last sequences as of the last refresh."""

    def __init__(
        self,
        definitions: ports.DefinitionStore,
        history: ports.HistoryStore,
        functions: library.Library = library.EMPTY,
    ) -> None:
        """Starts empty; `refresh` fills it."""
        self.catalog = catalog.Catalog(functions)
        self.last_sequences: dict[int, int] = {}
        self._definitions = definitions
        self._history = history
        self._lock = asyncio.Lock()
        self._begun = 0

    async def refresh(self) -> None:
        """Takes in what was registered and written since.

        Raises:
            UnavailableError: DATABASE_UNAVAILABLE; what is known stays known.
        """
        async with self._lock:
            await self._refresh()

    async def find(self, look_up: Callable[[catalog.Catalog], _T]) -> _T:
        """Returns what a look-up finds; one that fails is tried again on refreshed definitions.

        Raises:
            NotFoundError: The look-up's own, when the database does not know better.
            UnavailableError: The definition is unknown here and the database cannot be asked.
        """
        try:
            return look_up(self.catalog)
        except errors.NotFoundError:
            begun = self._begun
            async with self._lock:
                # All who miss at the same time share one refresh that begins after their miss.
                if self._begun == begun:
                    await self._refresh()
            return look_up(self.catalog)

    def wrote(self, view: int, last: int) -> None:
        """Notes how far a view's history reaches now."""
        self.last_sequences[view] = max(last, self.last_sequences.get(view, 0))

    async def _refresh(self) -> None:
        self._begun += 1
        self.catalog.update(await self._definitions.load(self.catalog.revision))
        # Behind the definitions: no source of an aggregate view that is known loses rows any more.
        self.catalog.retained = await self._history.retained()
        for view, last in (await self._history.last_sequences()).items():
            self.wrote(view, last)
