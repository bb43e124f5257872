"""Callers who go on asking, whatever happens to the services."""

import asyncio
import itertools
from collections import Counter
from types import TracebackType
from typing import Self

from tests.support import parcels, waiting
from tests.support import world as worlds

from setpoint_client import errors

CALLERS = 8
PAUSE_SECONDS = 0.05
"""After a failure; a caller who is refused does not come back at once."""

PREDICT_SECONDS = 30.0


class Load:
    """Asks about parcels from several callers at once, for the length of an `async with` block.

    Args:
        world: The running stack.
        route: Name of the route to ask.
    """

    def __init__(self, world: worlds.World, route: str = parcels.ROUTE) -> None:
        self._world = world
        self._route = route
        self._tasks: list[asyncio.Task[None]] = []
        self._parcels = itertools.cycle(parcels.Day(world.days).parcels)
        self._stopped = False
        self.answered: list[str] = []
        """Ids of the predictions that were answered."""
        self.failures: Counter[str] = Counter()
        """Predictions that failed, by the kind of the error and its reason."""

    async def __aenter__(self) -> Self:
        """Begins to ask."""
        self._tasks = [asyncio.create_task(self._ask(), name=f"caller {n}") for n in range(CALLERS)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Lets each caller have its last answer."""
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def more(self, number: int) -> None:
        """Waits until so many more predictions have been answered."""
        goal = len(self.answered) + number

        async def count() -> int:
            return len(self.answered)

        await waiting.until(count, lambda found: found >= goal)

    async def _ask(self) -> None:
        while not self._stopped:
            parcel = next(self._parcels)
            try:
                answer = await self._world.client.predict(
                    self._route,
                    entities=parcel.entities,
                    inputs=parcel.inputs,
                    event_time=parcels.midnight(self._world.days),
                    timeout=PREDICT_SECONDS,
                )
            except errors.SetpointError as error:
                self.failures[f"{type(error).__name__} {error.reason.value}"] += 1
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self.answered.append(answer.prediction_id)
