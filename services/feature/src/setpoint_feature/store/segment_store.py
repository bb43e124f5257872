"""Everything the compactor needs: rows out of the database, files into the folder, and the list."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import numpy as np
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_feature.domain import history, run, segments
from setpoint_feature.store import (
    queries,
    segment_cache,
    segment_file,
    segment_folder,
    segment_list,
)
from setpoint_runtime import ids

PAGE_ROWS: Final = 20_000
"""Rows read from the database at once."""

_SEQUENCES = queries.prepare(queries.SEQUENCES)


class SegmentStore:
    """Makes, reads and removes segments."""

    def __init__(
        self,
        engine: sqlalchemy_asyncio.AsyncEngine,
        folder: segment_folder.SegmentFolder,
        cache: segment_cache.SegmentCache,
    ) -> None:
        """Uses the database by an engine for long statements."""
        self._engine = engine
        self._folder = folder
        self._cache = cache

    def turn(self) -> AbstractAsyncContextManager[segment_list.SegmentTurn | None]:
        """Gives the right to change segments, None while somebody else has it."""
        return segment_list.turn(self._engine)

    async def recent(self, view: int, after: int, upto: int, most_bytes: int) -> history.NamedRows:
        """Returns the first rows of a range that lie in the database, about so many bytes."""
        parts: list[history.NamedRows] = []
        size = 0
        while after < upto and size < most_bytes:
            parameters = {"view": view, "after": after, "upto": min(after + PAGE_ROWS, upto)}
            async with engines.transaction(self._engine) as connection:
                parts.append(await queries.named(connection, _SEQUENCES, parameters))
            size += len(parts[-1].rows.data)
            after = parameters["upto"]
        return history.concat_named(parts)

    async def write(
        self, view: int, span: tuple[int, int], content: run.Run, thinned: int
    ) -> segments.Segment:
        """Stores rows as a file and reads it back; nothing refers to it yet."""
        return await asyncio.to_thread(self._write, view, span, content, thinned)

    def _write(
        self, view: int, span: tuple[int, int], content: run.Run, thinned: int
    ) -> segments.Segment:
        data = segment_file.encode(content)
        segment_id = ids.uuid7()
        made = segments.Segment(
            segment_id=segment_id,
            view=view,
            first=span[0],
            last=span[1],
            rows=len(content),
            size=len(data),
            digest=segment_cache.digest(data),
            path=f"{view}/{span[0]:012}-{span[1]:012}-{segment_id}.parquet",
            event_times=_bounds(content.event_times),
            created_times=_bounds(content.created_times),
            thinned=thinned,
        )
        segment_file.release_memory()
        self._folder.write(made.path, data)
        # Rows leave the database only for a file that is known to be readable.
        try:
            segment_cache.check(self._folder, made)
        except segment_cache.MissingError:
            raise segment_cache.damaged(made, "it was gone right after it was written") from None
        return made

    async def open(self, segment: segments.Segment) -> run.Run:
        """Returns the rows of a segment."""
        try:
            return await self._cache.open(segment)
        except segment_cache.MissingError:
            raise segment_cache.damaged(segment, "its file is gone") from None

    def release(self, replaced: Sequence[segments.Segment] = ()) -> None:
        """Lets go of replaced segments, and of memory that others took."""
        self._cache.drop(replaced)
        self._cache.release()

    async def files(self) -> dict[str, int]:
        """Returns when each file was last changed, unfinished ones included."""
        return await asyncio.to_thread(self._folder.modified)

    async def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        await asyncio.to_thread(self._folder.remove, path)


def _bounds(times: run.Rows) -> tuple[int, int]:
    return (int(np.min(times)), int(np.max(times))) if len(times) else (0, 0)
