"""Rows on their way into the feature service, in the order in which they became known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from setpoint.feature.v1 import feature_service_pb2
from setpoint_client.stubs import AsyncStubs
from setpoint_columns import interop, proto
from setpoint_runtime import ids

CHUNK_ROWS = 20_000
"""Rows in one write: below the 4 MiB that a message may have, for every view of the demo."""

WRITE_TIMEOUT_SECONDS = 60.0


class Feed:
    """A cursor over one view's frame, which is sorted by created_time."""

    def __init__(self, view: str, frame: pl.DataFrame) -> None:
        """Starts before the first row."""
        self.view = view
        self._frame = frame
        self._created = frame["created_time"].dt.timestamp("us").to_numpy()
        self._position = 0

    def take_until(self, time: int) -> pl.DataFrame:
        """Takes the rows that became known at or before a time (microseconds UTC)."""
        end = int(np.searchsorted(self._created, time, "right"))
        taken = self._frame.slice(self._position, max(0, end - self._position))
        self._position = max(self._position, end)
        return taken


async def write(
    services: AsyncStubs,
    view: str,
    frame: pl.DataFrame,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> int:
    """Writes a frame in chunks and returns the number of rows stored."""
    stored = 0
    for chunk in frame.iter_slices(CHUNK_ROWS):
        request = feature_service_pb2.WriteFeaturesRequest(
            batch_id=ids.uuid7(), view=view, rows=proto.to_proto(interop.from_polars(chunk))
        )
        response = await services.feature.WriteFeatures(request, timeout=WRITE_TIMEOUT_SECONDS)
        stored += response.rows_written
        on_rows(chunk.height)
    return stored


class Feeds:
    """The feeds of several views, moved together."""

    def __init__(self, frames: Mapping[str, pl.DataFrame], views: Sequence[str]) -> None:
        """Starts every feed before its first row."""
        self._feeds = [Feed(view, frames[view]) for view in views]

    async def write_until(
        self, services: AsyncStubs, time: int, on_rows: Callable[[int], None] = lambda rows: None
    ) -> int:
        """Writes what became known at or before a time, views side by side; returns the rows."""
        taken = [(feed.view, feed.take_until(time)) for feed in self._feeds]
        stored = await asyncio.gather(
            *(write(services, view, frame, on_rows) for view, frame in taken if frame.height)
        )
        return sum(stored)
