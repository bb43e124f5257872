"""Training sets as Parquet files in the folder of segments, one for each stretch of rows.

The files of a training set are a data set that anything can read; the service trusts them only as far
as their digests, which PostgreSQL holds, agree.
"""

import asyncio
import hashlib
import io
from collections.abc import Mapping
from typing import Final

import pyarrow.parquet as pq

from setpoint_columns import interop
from setpoint_feature.domain import training_set
from setpoint_feature.store import segment_folder
from setpoint_runtime import errors

FOLDER: Final = "snapshots"
"""Beside the folders of the histories' segments, which are cleaned by other rules."""


class TrainingSetFiles:
    """Implements `ports.TrainingSetFiles`."""

    def __init__(self, url: str, store_id: str) -> None:
        """Opens the folder; nothing is made yet."""
        self._folder = segment_folder.SegmentFolder(f"{url.rstrip('/')}/{FOLDER}", store_id)

    async def write(
        self, snapshot_id: str, number: int, rows: training_set.Rows
    ) -> training_set.Part:
        """Stores some rows as one part, for good once this returns."""
        return await asyncio.to_thread(self._write, snapshot_id, number, rows)

    def _write(self, snapshot_id: str, number: int, rows: training_set.Rows) -> training_set.Part:
        sink = io.BytesIO()
        table = interop.to_arrow(training_set.packed(rows))
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue()
        self._folder.write(_path(snapshot_id, number), data)
        return training_set.Part(rows.spine.rows, len(data), hashlib.sha256(data).hexdigest())

    async def read(self, found: training_set.TrainingSet, number: int) -> training_set.Rows:
        """Returns the rows of one part, as they were stored."""
        return await asyncio.to_thread(self._read, found, number)

    def _read(self, found: training_set.TrainingSet, number: int) -> training_set.Rows:
        path = _path(found.snapshot_id, number)
        data = self._folder.read(path)
        if data is None or hashlib.sha256(data).hexdigest() != found.parts[number].digest:
            what = "gone" if data is None else "not what was stored"
            raise errors.DataLossError(
                errors.Reason.SNAPSHOT_DAMAGED,
                f"part {number} of snapshot {found.snapshot_id} is {what}",
                metadata={"snapshot_id": found.snapshot_id, "file": path},
            )
        table = interop.from_arrow(pq.read_table(io.BytesIO(data)))
        return training_set.unpacked(table, found.spine_columns, found.features)

    async def remove(self, snapshot_id: str) -> None:
        """Removes all parts of a training set."""
        await asyncio.to_thread(self._remove, snapshot_id)

    def _remove(self, snapshot_id: str) -> None:
        for path in self._folder.modified():
            if path.split("/")[0] == snapshot_id:
                self._folder.remove(path)

    async def stored(self) -> Mapping[str, int]:
        """Returns the ids of training sets of which there are files, and when the newest was written."""
        found: dict[str, int] = {}
        for path, time in (await asyncio.to_thread(self._folder.modified)).items():
            snapshot_id = path.split("/")[0]
            found[snapshot_id] = max(time, found.get(snapshot_id, time))
        return found


def _path(snapshot_id: str, number: int) -> str:
    return f"{snapshot_id}/part-{number:05}.parquet"
