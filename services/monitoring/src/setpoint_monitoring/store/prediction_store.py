"""Records, predictions, outcomes and profiles in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_db import copy, engine
from setpoint_monitoring import ports
from setpoint_monitoring.domain.profile import Counts
from setpoint_monitoring.domain.records import HOUR, Outcome, Record, Scored, VersionKey, Window
from setpoint_monitoring.store import tables
from setpoint_runtime import errors

_PREDICTION_COLUMNS = (
    "prediction_id",
    "record_id",
    "position",
    "model",
    "version",
    "route",
    "event_time",
    "status",
    "score",
)
_OUTCOME_COLUMNS = ("prediction_id", "event_time", "label", "arrival_time")

_RECORD_IDS = sa.text(
    "SELECT nextval(pg_get_serial_sequence('records', 'record_id')) "
    "FROM generate_series(1, CAST(:count AS integer))"
)

_PENDING = sa.text(
    """
    SELECT oldest.record_id, oldest.payload, own.positions
    FROM (SELECT record_id, payload FROM records WHERE NOT profiled
          ORDER BY record_id LIMIT :limit) oldest
    JOIN LATERAL (SELECT array_agg(position) AS positions FROM predictions
                  WHERE predictions.record_id = oldest.record_id) own
      ON own.positions IS NOT NULL
    ORDER BY oldest.record_id
    """
)

_ADD_PROFILES = sa.text(
    """
    INSERT INTO profiles AS kept (model, version, column_name, hour, counts)
    VALUES (:model, :version, :column_name, :hour, :counts)
    ON CONFLICT (model, version, column_name, hour) DO UPDATE SET counts = ARRAY(
        SELECT a + b FROM unnest(kept.counts, excluded.counts) WITH ORDINALITY AS bins (a, b, place)
        ORDER BY place)
    """
)

_SCORED = """
    SELECT p.event_time, p.status <> 0 AS failed, p.score, o.label
    FROM predictions p
    LEFT JOIN LATERAL (
        SELECT label FROM outcomes
        WHERE outcomes.prediction_id = p.prediction_id
          AND (CAST(:known_at AS bigint) IS NULL OR outcomes.arrival_time <= :known_at)
        ORDER BY outcomes.event_time DESC, outcomes.arrival_time DESC
        LIMIT 1
    ) o ON true
    WHERE p.model = :model AND p.version = :version
      AND p.event_time >= :start AND p.event_time < :end
      AND (CAST(:route AS text) IS NULL OR p.route = :route)
    ORDER BY p.event_time
"""


class PredictionStore:
    """Implements `ports.PredictionStore`."""

    def __init__(self, database: AsyncEngine, reports: AsyncEngine) -> None:
        """Take the engine of quick work and that of reports, which may run longer."""
        self._database = database
        self._reports = reports

    async def add_records(self, records: Sequence[Record], now: int) -> int:
        """Store records; return how many of their predictions are new."""
        async with engine.transaction(self._database) as connection:
            numbers = list(
                (await connection.execute(_RECORD_IDS, {"count": len(records)})).scalars()
            )
            numbered = list(zip(numbers, records, strict=True))
            await connection.execute(
                sa.insert(tables.RECORDS),
                [_record_row(number, record, now) for number, record in numbered],
            )
            rows = [row for number, record in numbered for row in _prediction_rows(number, record)]
            stored = await copy.insert_new(
                connection, tables.PREDICTIONS, _PREDICTION_COLUMNS, rows
            )
            if stored < len(rows):
                await _delete_empty(connection, numbers)
        return stored

    async def add_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """Store outcomes; return how many are new."""
        rows = [
            (each.prediction_id, each.event_time, each.label, each.arrival_time)
            for each in outcomes
        ]
        async with engine.transaction(self._database) as connection:
            return await copy.insert_new(connection, tables.OUTCOMES, _OUTCOME_COLUMNS, rows)

    async def prediction(self, prediction_id: str) -> ports.StoredPrediction:
        """Return one prediction. Raises NotFoundError."""
        predictions, records, outcomes = tables.PREDICTIONS, tables.RECORDS, tables.OUTCOMES
        find = (
            sa.select(records.c.payload, predictions.c.position, records.c.record_time)
            .join(records, records.c.record_id == predictions.c.record_id)
            .where(predictions.c.prediction_id == prediction_id)
        )
        what_happened = (
            sa.select(outcomes.c.label, outcomes.c.event_time, outcomes.c.arrival_time)
            .where(outcomes.c.prediction_id == prediction_id)
            .order_by(outcomes.c.event_time.desc(), outcomes.c.arrival_time.desc())
        )
        async with engine.transaction(self._database) as connection:
            found = (await connection.execute(find)).one_or_none()
            if found is None:
                raise errors.NotFoundError(
                    errors.Reason.PREDICTION_NOT_FOUND,
                    f"no record is stored for prediction {prediction_id}",
                )
            known = (await connection.execute(what_happened)).all()
        return ports.StoredPrediction(
            found.payload,
            found.position,
            found.record_time,
            tuple(Outcome(prediction_id, *row) for row in known),
        )

    async def list_predictions(
        self, which: ports.ListFilter, before: tuple[int, str] | None, limit: int
    ) -> list[ports.Listed]:
        """Return predictions, newest event time first, those before one."""
        table = tables.PREDICTIONS
        query = sa.select(
            table.c.prediction_id,
            table.c.model,
            table.c.version,
            table.c.route,
            table.c.event_time,
            table.c.status,
        ).where(*_conditions(which))
        if before is not None:
            cursor = sa.tuple_(
                sa.literal(before[0]), sa.cast(before[1], table.c.prediction_id.type)
            )
            query = query.where(sa.tuple_(table.c.event_time, table.c.prediction_id) < cursor)
        query = query.order_by(table.c.event_time.desc(), table.c.prediction_id.desc()).limit(limit)
        async with engine.transaction(self._database) as connection:
            rows = (await connection.execute(query)).all()
        return [
            ports.Listed(
                row.prediction_id,
                VersionKey(row.model, row.version),
                row.route,
                row.event_time,
                row.status,
            )
            for row in rows
        ]

    async def count_predictions(self, which: ports.ListFilter) -> int:
        """Return how many predictions match."""
        query = (
            sa.select(sa.func.count()).select_from(tables.PREDICTIONS).where(*_conditions(which))
        )
        async with engine.transaction(self._reports) as connection:
            return int((await connection.execute(query)).scalar_one())

    async def models(self) -> list[str]:
        """Return the models that predicted."""
        # One index look-up for each model, where DISTINCT would read every prediction.
        query = sa.text(
            """
            WITH RECURSIVE found AS (
                (SELECT model FROM predictions ORDER BY model LIMIT 1)
                UNION ALL
                SELECT (SELECT model FROM predictions p WHERE p.model > found.model
                        ORDER BY model LIMIT 1)
                FROM found WHERE found.model IS NOT NULL)
            SELECT model FROM found WHERE model IS NOT NULL AND model <> ''
            """
        )
        async with engine.transaction(self._reports) as connection:
            return list((await connection.execute(query)).scalars())

    async def versions(self, model: str) -> list[tuple[VersionKey, int, int]]:
        """Return a model's versions that predicted, with first and last event time."""
        table = tables.PREDICTIONS
        query = (
            sa.select(
                table.c.version, sa.func.min(table.c.event_time), sa.func.max(table.c.event_time)
            )
            .where(table.c.model == model, table.c.version > 0)
            .group_by(table.c.version)
            .order_by(table.c.version)
        )
        async with engine.transaction(self._reports) as connection:
            rows = (await connection.execute(query)).all()
        return [(VersionKey(model, version), first, last) for version, first, last in rows]

    async def scored(
        self, version: VersionKey, window: Window, known_at: int | None, route: str | None = None
    ) -> Scored:
        """Return a version's predictions in a window with the newest outcome known at a time."""
        values = {
            "model": version.model,
            "version": version.version,
            "start": window.start,
            "end": window.end,
            "known_at": known_at,
            "route": route,
        }
        async with engine.transaction(self._reports) as connection:
            rows = (await connection.execute(sa.text(_SCORED), values)).all()
        return Scored(
            np.array([row.event_time for row in rows], dtype=np.int64),
            np.array([row.failed for row in rows], dtype=np.bool_),
            np.array([row.score for row in rows], dtype=np.float64),
            np.array([row.label for row in rows], dtype=np.float64),
        )

    async def sample(self, version: VersionKey, window: Window, limit: int) -> list[str]:
        """Return some prediction ids of a window."""
        table = tables.PREDICTIONS
        which = ports.ListFilter(version.model, version.version, window)
        query = (
            sa.select(table.c.prediction_id)
            .where(*_conditions(which))
            .order_by(table.c.event_time.desc(), table.c.prediction_id.desc())
            .limit(limit)
        )
        async with engine.transaction(self._database) as connection:
            return list((await connection.execute(query)).scalars())

    async def pending(self, limit: int) -> list[ports.Pending]:
        """Return records that are not yet counted, oldest first."""
        async with engine.transaction(self._reports) as connection:
            rows = (await connection.execute(_PENDING, {"limit": limit})).all()
        return [ports.Pending(row.record_id, row.payload, tuple(row.positions)) for row in rows]

    async def add_profiles(
        self, record_ids: Sequence[int], counts: Mapping[ports.ProfileKey, Counts]
    ) -> bool:
        """Add counts and mark the records; False, and nothing done, if another did it first."""
        records = tables.RECORDS
        mark = (
            sa.update(records)
            .where(records.c.record_id.in_(record_ids), ~records.c.profiled)
            .values(profiled=True)
        )
        # In the order of the key, so that two replicas wait for each other instead of deadlocking.
        rows = [
            {
                "model": version.model,
                "version": version.version,
                "column_name": column,
                "hour": hour,
                "counts": vector.tolist(),
            }
            for (version, column, hour), vector in sorted(counts.items(), key=lambda item: item[0])
        ]
        async with engine.transaction(self._reports) as connection:
            marked = await connection.execute(mark)
            if marked.rowcount != len(record_ids):
                await connection.rollback()
                return False
            if rows:
                await connection.execute(_ADD_PROFILES, rows)
        return True

    async def profiles(self, version: VersionKey, window: Window) -> list[tuple[str, int, Counts]]:
        """Return column, hour and counts of a window's hours."""
        table = tables.PROFILES
        query = sa.select(table.c.column_name, table.c.hour, table.c.counts).where(
            table.c.model == version.model,
            table.c.version == version.version,
            table.c.hour >= window.start // HOUR,
            table.c.hour < -(-window.end // HOUR),
        )
        async with engine.transaction(self._reports) as connection:
            rows = (await connection.execute(query)).all()
        return [(row.column_name, row.hour, np.array(row.counts, dtype=np.int64)) for row in rows]


def _record_row(record_id: int, record: Record, now: int) -> dict[str, object]:
    return {
        "record_id": record_id,
        "payload": record.payload,
        "record_time": now,
        "profiled": False,
    }


def _prediction_rows(record_id: int, record: Record) -> list[tuple[object, ...]]:
    key = record.version
    return [
        (
            entry.prediction_id,
            record_id,
            position,
            key.model,
            key.version,
            record.route,
            entry.event_time,
            entry.status,
            entry.score,
        )
        for position, entry in enumerate(record.entries)
    ]


async def _delete_empty(connection: AsyncConnection, record_ids: Sequence[int]) -> None:
    """Deletes records all of whose predictions came before."""
    records, predictions = tables.RECORDS, tables.PREDICTIONS
    has_own = sa.exists().where(predictions.c.record_id == records.c.record_id)
    await connection.execute(
        sa.delete(records).where(records.c.record_id.in_(record_ids), ~has_own)
    )


def _conditions(which: ports.ListFilter) -> list[sa.ColumnElement[bool]]:
    table = tables.PREDICTIONS
    conditions: list[sa.ColumnElement[bool]] = []
    if which.model is not None:
        conditions.append(table.c.model == which.model)
    if which.version is not None:
        conditions.append(table.c.version == which.version)
    if which.window is not None:
        conditions.append(table.c.event_time >= which.window.start)
        conditions.append(table.c.event_time < which.window.end)
    return conditions
