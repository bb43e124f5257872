"""What replays of served features have found, in PostgreSQL."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_feature import ports
from setpoint_feature.domain import skew, visibility
from setpoint_feature.store import skew_tables

KEPT_EXAMPLES: Final = 20
"""Of each feature of a feature set and each cause; the newest."""

_ADD_DAY = sqlalchemy.text(
    """
    INSERT INTO skew_days AS kept
      (day, feature_set, version, predictions, differing_predictions, compared_values, removed_predictions)
    VALUES (:day, :feature_set, :version, :predictions, :differing_predictions, :values, :removed)
    ON CONFLICT (day, feature_set, version) DO UPDATE SET
      predictions = kept.predictions + excluded.predictions,
      differing_predictions = kept.differing_predictions + excluded.differing_predictions,
      compared_values = kept.compared_values + excluded.compared_values,
      removed_predictions = kept.removed_predictions + excluded.removed_predictions
    """
)
_ADD_DIFFERENCE = sqlalchemy.text(
    """
    INSERT INTO skew_differences AS kept
      (day, feature_set, version, feature, cause, differing_values)
    VALUES (:day, :feature_set, :version, :feature, :cause, :values)
    ON CONFLICT (day, feature_set, version, feature, cause) DO UPDATE SET
      differing_values = kept.differing_values + excluded.differing_values
    """
)
_PRUNE = sqlalchemy.text(
    """
    DELETE FROM skew_examples WHERE number IN (
      SELECT number FROM (
        SELECT number, row_number() OVER (
                 PARTITION BY feature_set, version, feature, cause ORDER BY number DESC) AS place
          FROM skew_examples WHERE feature_set = :feature_set AND version = :version
      ) AS placed WHERE place > :kept)
    """
)
# The batch's transaction began then; it was committed, and copied online, a moment later.
_WRITTEN = sqlalchemy.text(
    """
    SELECT asked.sequence, (extract(epoch FROM batch.create_time) * 1000000)::bigint AS time
      FROM unnest(CAST(:sequences AS bigint[])) AS asked(sequence)
     CROSS JOIN LATERAL (
           SELECT last_sequence, create_time FROM batches
            WHERE view = :view AND first_sequence <= asked.sequence
              AND first_sequence <= last_sequence
            ORDER BY first_sequence DESC LIMIT 1) AS batch
     WHERE batch.last_sequence >= asked.sequence
    """
)


class SQLSkewStore:
    """Implements `ports.SkewStore`."""

    def __init__(self, engine: sqlalchemy_asyncio.AsyncEngine) -> None:
        """Uses an engine whose schema is the service's."""
        self._engine = engine

    async def progress(self) -> ports.Progress:
        """Returns how far records have been replayed."""
        columns = skew_tables.progress.c
        query = sqlalchemy.select(
            columns.through_record, columns.newest_record, columns.replay_time
        )
        async with engines.transaction(self._engine) as connection:
            return ports.Progress(*(await connection.execute(query)).one())

    async def add(self, page: ports.RecordPage, now: int, tallies: Sequence[skew.Tally]) -> bool:
        """Adds findings and moves on; False, and nothing done, when another replica did it first."""
        columns = skew_tables.progress.c
        move = (
            sqlalchemy.update(skew_tables.progress)
            .where(columns.through_record == page.after)
            .values(through_record=page.through, newest_record=page.newest, replay_time=now)
        )
        async with engines.transaction(self._engine) as connection:
            # The row lock makes another replica wait, which then finds that it came second.
            if (await connection.execute(move)).rowcount == 0:
                return False
            for tally in tallies:
                await _add(connection, tally)
        return True

    async def totals(
        self, feature_set: str, version: str, since_day: int, examples: int
    ) -> list[skew.Totals]:
        """Returns what was found from a day on."""
        async with engines.transaction(self._engine) as connection:
            days = await _days(connection, feature_set, version, since_day)
            differences = await _differences(connection, feature_set, version, since_day)
            shown = await _examples(connection, feature_set, version, since_day, examples)
        return [
            skew.Totals(
                row.feature_set,
                row.version,
                int(row.predictions),
                int(row.differing_predictions),
                int(row.compared_values),
                differences[row.feature_set, row.version],
                shown[row.feature_set, row.version],
                int(row.removed_predictions),
            )
            for row in days
        ]

    async def written_times(self, view: int, sequences: npt.NDArray[np.int64]) -> visibility.Times:
        """Returns when rows were stored, by the database's clock."""
        given = {"view": view, "sequences": sequences.tolist()}
        async with engines.transaction(self._engine) as connection:
            rows = (await connection.execute(_WRITTEN, given)).all()
        times = {row.sequence: row.time for row in rows}
        return np.array([times.get(each, 0) for each in sequences.tolist()], np.int64)


async def _add(connection: sqlalchemy_asyncio.AsyncConnection, tally: skew.Tally) -> None:
    key = {"day": tally.day, "feature_set": tally.feature_set, "version": tally.version}
    counts = {
        "predictions": tally.predictions,
        "differing_predictions": tally.differing_predictions,
        "values": tally.values,
        "removed": tally.removed_predictions,
    }
    await connection.execute(_ADD_DAY, {**key, **counts})
    if not tally.differences:
        return
    found = [
        {**key, "feature": feature, "cause": int(cause), "values": count}
        for (feature, cause), count in sorted(tally.differences.items())
    ]
    await connection.execute(_ADD_DIFFERENCE, found)
    rows = [{**key, **_example_row(each)} for each in tally.examples]
    statement = postgresql.insert(skew_tables.examples).on_conflict_do_nothing()
    await connection.execute(statement, rows)
    await connection.execute(_PRUNE, {**key, "kept": KEPT_EXAMPLES})


def _example_row(example: skew.Example) -> dict[str, object]:
    return {
        "prediction_id": example.prediction_id,
        "feature": example.feature,
        "cause": int(example.cause),
        "as_of_time": example.time,
        "served": _storable(example.served),
        "known": _storable(example.known),
        "served_status": example.served_at.status,
        "served_event_time": example.served_at.event_time,
        "known_status": example.known_at.status,
        "known_event_time": example.known_at.event_time,
        "note": _storable(example.note) or "",
    }


def _storable(text: str | None) -> str | None:
    """Returns a text without the one character that the database cannot hold."""
    return None if text is None else text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _of(table: sqlalchemy.Table, feature_set: str, version: str, since: int) -> Any:
    conditions = [table.c.day >= since]
    if feature_set:
        conditions.append(table.c.feature_set == feature_set)
    if version:
        conditions.append(table.c.version == version)
    return sqlalchemy.and_(*conditions)


async def _days(
    connection: sqlalchemy_asyncio.AsyncConnection, feature_set: str, version: str, since: int
) -> Sequence[Any]:
    columns = skew_tables.days.c
    sums = [
        sqlalchemy.func.sum(columns[name]).label(name)
        for name in (
            "predictions",
            "differing_predictions",
            "compared_values",
            "removed_predictions",
        )
    ]
    query = (
        sqlalchemy.select(columns.feature_set, columns.version, *sums)
        .where(_of(skew_tables.days, feature_set, version, since))
        .group_by(columns.feature_set, columns.version)
        .order_by(columns.feature_set, columns.version)
    )
    return (await connection.execute(query)).all()


async def _differences(
    connection: sqlalchemy_asyncio.AsyncConnection, feature_set: str, version: str, since: int
) -> Mapping[tuple[str, str], dict[tuple[str, skew.Cause], int]]:
    columns = skew_tables.differences.c
    by = (columns.feature_set, columns.version, columns.feature, columns.cause)
    query = (
        sqlalchemy.select(*by, sqlalchemy.func.sum(columns.differing_values).label("count"))
        .where(_of(skew_tables.differences, feature_set, version, since))
        .group_by(*by)
        .order_by(*by)
    )
    found: dict[tuple[str, str], dict[tuple[str, skew.Cause], int]] = defaultdict(dict)
    for row in (await connection.execute(query)).all():
        cause = skew.Cause(row.cause)
        found[row.feature_set, row.version][row.feature, cause] = int(row[-1])
    return found


async def _examples(
    connection: sqlalchemy_asyncio.AsyncConnection,
    feature_set: str,
    version: str,
    since: int,
    limit: int,
) -> Mapping[tuple[str, str], list[skew.Example]]:
    columns = skew_tables.examples.c
    place = sqlalchemy.func.row_number().over(
        partition_by=[columns.feature_set, columns.version, columns.feature, columns.cause],
        order_by=columns.number.desc(),
    )
    ranked = (
        sqlalchemy.select(skew_tables.examples, place.label("place"))
        .where(_of(skew_tables.examples, feature_set, version, since))
        .subquery()
    )
    query = (
        sqlalchemy.select(ranked)
        .where(ranked.c.place <= limit)
        .order_by(ranked.c.feature, ranked.c.cause, ranked.c.place)
    )
    found: dict[tuple[str, str], list[skew.Example]] = defaultdict(list)
    for row in (await connection.execute(query)).all():
        found[row.feature_set, row.version].append(
            skew.Example(
                row.prediction_id,
                row.feature,
                skew.Cause(row.cause),
                row.as_of_time,
                row.served,
                row.known,
                skew.Seen(row.served_status, row.served_event_time),
                skew.Seen(row.known_status, row.known_event_time),
                row.note,
            )
        )
    return found
