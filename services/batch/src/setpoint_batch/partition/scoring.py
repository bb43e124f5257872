"""One partition: read, fetch, check, run, write, a chunk of rows at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from setpoint_batch.domain.job import Format
from setpoint_batch.partition import (
    answers,
    checks,
    forms,
    inputs,
    models,
    outputs,
    peers,
    running,
    values,
)
from setpoint_columns import Column, Columns, DataType, interop
from setpoint_runtime import errors
from setpoint_scoring.runner import Runner


@dataclass(slots=True)
class Chunk:
    """Some rows on their way. Features, inputs and flags belong to the `good` rows alone."""

    first_row: int
    table: pa.Table
    times: npt.NDArray[np.int64]
    bad: values.RowErrors
    good: npt.NDArray[np.intp]
    entities: Columns
    given: Columns
    statuses: Sequence[bytes] = ()
    features: Columns | None = None
    flags: dict[int, list[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.table.num_rows)


async def score(task: Mapping[str, Any]) -> dict[str, Any]:
    """Works on a partition and returns what became of it.

    Raises:
        SetpointError: The partition as a whole cannot be worked on.
    """
    model = forms.model_of(task["model"])
    scorer = Scorer(task, model, await models.opened(task, model))
    number = task["partition"]["number"]
    output = outputs.Output(task)
    async with AsyncExitStack() as stack:
        writer = stack.enter_context(output.writing(number))
        if scorer.form.by_entities and scorer.feature_set is not None:
            opened = await stack.enter_async_context(peers.connect(task, "feature"))
            client = peers.FeatureClient(opened, scorer.feature_set)
            async for chunk in _with_features(scorer.chunks(), client):
                # Beside the loop, which meanwhile takes the next chunk's features.
                await asyncio.to_thread(scorer.finish, chunk, writer)
        else:
            for chunk in scorer.chunks():
                scorer.finish(chunk, writer)
    return {
        "number": number,
        "name": writer.name,
        "rows": scorer.rows,
        "failed": scorer.failed,
        "degraded": scorer.degraded,
        "size": writer.file.size,
        "sha256": writer.file.sha256,
    }


async def _with_features(
    chunks: Iterator[Chunk], client: peers.FeatureClient
) -> AsyncIterator[Chunk]:
    """Yields chunks with their features, each while those of the next are on their way."""
    waiting: deque[asyncio.Task[Chunk]] = deque()
    try:
        for chunk in chunks:
            waiting.append(asyncio.create_task(_fetch(chunk, client)))
            if len(waiting) > 1:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _fetch(chunk: Chunk, client: peers.FeatureClient) -> Chunk:
    if len(chunk.good):
        sent = [each for each in client.request_columns if each not in chunk.entities]
        spine = Columns(
            chunk.entities.rows,
            [*chunk.entities.columns, *chunk.given.select(sent).columns],
        )
        times = Column(
            peers.time_name(spine.names),
            DataType.TIMESTAMP,
            np.ascontiguousarray(chunk.times[chunk.good]),
        )
        fetched = await client.fetch(spine.with_column(times))
        chunk.features, chunk.statuses = fetched.features, fetched.statuses
    return chunk


class Scorer:
    """Everything that the chunks of a partition share."""

    def __init__(self, task: Mapping[str, Any], model: forms.Model, runner: Runner) -> None:
        """Take a task and its model."""
        self._task = task
        self._model = model
        self._runner = runner
        self.form = forms.form_of(task)
        self.feature_set = forms.feature_set_of(task["feature_set"])
        self._rules = checks.compiled(task["rules"])
        self._outputs = {name: spec.dtype for spec in model.outputs for name in spec.columns}
        self.rows = self.failed = self.degraded = 0

    def chunks(self) -> Iterator[Chunk]:
        """Yield the partition's rows, fitted to what is wanted."""
        first_row = self._task["partition"]["first_row"]
        file = self._task["file"]
        for table in inputs.read(self._task, self.form):
            if file is not None and file["format"] == Format.CSV:
                table = values.typed(table, self.form.typed, file["url"], first_row)
            yield self._fitted(table, first_row)
            first_row += table.num_rows

    def _fitted(self, table: pa.Table, first_row: int) -> Chunk:
        form = self.form
        entities = values.fit(table, form.entities, first_row, values.MAX_KEY_BYTES)
        given = values.fit(table, form.given, first_row)
        bad = {**entities.bad, **given.bad}
        times = self._times(table, first_row, bad)
        good = np.arange(table.num_rows)
        found, requested = entities.columns, given.columns
        if bad:
            good = np.setdiff1d(good, list(bad))
            found, requested = found.take(good), requested.take(good)
        return Chunk(first_row, table, times, bad, good, found, requested)

    def _times(
        self, table: pa.Table, first_row: int, bad: values.RowErrors
    ) -> npt.NDArray[np.int64]:
        name = self.form.event_time_column
        if not name:
            return np.full(table.num_rows, self._task["event_time"], np.int64)
        column = interop.from_arrow(table.select([name])).columns[0]
        wrong = column.values < 0 if column.validity is None else ~column.validity
        for row in np.flatnonzero(wrong).tolist():
            path = f'rows["{name}"][{first_row + row}]'
            error = errors.invalid(path, column.item(row), "must be a time from 1970 on")
            bad.setdefault(row, error)
        times: npt.NDArray[np.int64] = column.values
        return times

    def finish(self, chunk: Chunk, writer: outputs.PartWriter) -> None:
        """Check, run and write a chunk."""
        writer.write(self.answer(chunk))

    def answer(self, chunk: Chunk) -> pa.Table:
        """Return the output's rows of a chunk."""
        features = chunk.features.columns if chunk.features is not None else ()
        inputs_seen = Columns(len(chunk.good), [*features, *chunk.given.columns])
        parts = self._run(chunk, inputs_seen)
        flags = {int(chunk.good[at]): pieces for at, pieces in chunk.flags.items()}
        statuses = [_spread(each, chunk.good, chunk.rows) for each in chunk.statuses]
        names = self.feature_set.features if self.feature_set and statuses else ()
        degradations = answers.degradations(names, statuses, flags, chunk.rows)
        status, error = answers.error_columns(chunk.bad, chunk.rows)
        self.rows += chunk.rows
        self.failed += len(chunk.bad)
        self.degraded += self._count_degraded(degradations, chunk)
        columns = {
            "row": pa.array(np.arange(chunk.first_row, chunk.first_row + chunk.rows)),
            **{name: chunk.table.column(name) for name in self.form.copied},
            "prediction_id": self._ids(chunk),
            "version": pa.array(np.full(chunk.rows, self._model.version, np.int64)),
            "event_time": pa.array(chunk.times, pa.timestamp("us", tz="UTC")),
            "status": status,
            "error": error,
            "degradations": degradations,
            **self._inputs(chunk, inputs_seen),
        }
        found = answers.output_columns(parts, self._outputs, chunk.rows)
        columns |= dict(zip(self._outputs, found, strict=True))
        return pa.table(columns)

    def _run(
        self, chunk: Chunk, inputs_seen: Columns
    ) -> list[tuple[npt.NDArray[np.intp], list[Any]]]:
        """Run the model on the rows that may go on; return its answers by row of the chunk."""
        bad = values.refuse_missing(inputs_seen, self._model.inputs, chunk.first_row)
        if self._rules:
            rejected, chunk.flags = checks.judge(self._rules, inputs_seen)
            bad |= rejected
        rows = np.arange(inputs_seen.rows)
        run = running.Run(self._model, self._runner, inputs_seen)
        run.run(np.setdiff1d(rows, list(bad)) if bad else rows)
        for row, error in {**bad, **run.bad}.items():
            chunk.bad[int(chunk.good[row])] = error
        return [(chunk.good[at], found) for at, found in run.parts]

    def _ids(self, chunk: Chunk) -> pa.Array:
        task = self._task
        seed = f"{task['job_id']}/{task['attempt']}"
        return answers.prediction_ids(seed, task["create_time"], chunk.first_row, chunk.rows)

    def _inputs(self, chunk: Chunk, seen: Columns) -> dict[str, Any]:
        """Return what the model saw, where that is asked for; null in rows it never saw."""
        if not self._task["with_inputs"]:
            return {}
        found = interop.to_arrow(seen)
        if len(chunk.good) != chunk.rows:
            position = np.full(chunk.rows, -1)
            position[chunk.good] = np.arange(len(chunk.good))
            found = found.take(pa.array(position, mask=position < 0))
        return {f"input_{name}": found.column(name) for name in found.schema.names}

    def _count_degraded(self, degradations: pa.Array, chunk: Chunk) -> int:
        if degradations.null_count == chunk.rows:
            return 0
        told = degradations.is_valid().to_numpy(zero_copy_only=False)
        told[list(chunk.bad)] = False
        return int(told.sum())


def _spread(statuses: bytes, good: npt.NDArray[np.intp], rows: int) -> bytes:
    if len(good) == rows:
        return statuses
    spread = np.zeros(rows, np.uint8)
    spread[good] = np.frombuffer(statuses, np.uint8)
    return spread.tobytes()
