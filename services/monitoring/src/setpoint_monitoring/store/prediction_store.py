"""Records, predictions, outcomes and profiles in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_db import copy, engine
from setpoint_monitoring import ports
from setpoint_monitoring.domain.pairs import Pairs
from setpoint_monitoring.domain.profile import Counts
from setpoint_monitoring.domain.records import HOUR, Outcome, Record, Scored, VersionKey, Window
from setpoint_monitoring.store import tables
from setpoint_runtime import errors

_COLUMNS = (
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
_PREDICTION_COLUMNS = (*_COLUMNS, "chosen_version")
_SHADOW_COLUMNS = (*_COLUMNS, "primary_id")

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

_ADD_OUTCOMES = sa.text(
    """
    INSERT INTO outcomes (prediction_id, event_time, arrival_time, label)
    SELECT prediction_id, event_time, arrival_time, label
    FROM (
        SELECT *, lag(label) OVER (PARTITION BY prediction_id, event_time
                                   ORDER BY arrival_time, is_new, place) AS known_label
        FROM (
            SELECT *, true AS is_new
            FROM unnest(CAST(:prediction_ids AS uuid[]), CAST(:event_times AS bigint[]),
                        CAST(:arrival_times AS bigint[]), CAST(:labels AS double precision[]))
                 WITH ORDINALITY AS given (prediction_id, event_time, arrival_time, label, place)
            UNION ALL
            SELECT prediction_id, event_time, arrival_time, label, 0, false
            FROM outcomes WHERE prediction_id = ANY (CAST(:prediction_ids AS uuid[]))
        ) told
    ) judged
    WHERE is_new AND known_label IS DISTINCT FROM label
    ORDER BY prediction_id, event_time, arrival_time, label
    ON CONFLICT DO NOTHING
    """
)
"""In the order of the key, so that two deliveries of the same rows wait for each other."""

_SCORED = """
    SELECT p.event_time, p.failed, p.score, o.label
    FROM (
        SELECT prediction_id, event_time, status <> 0 AS failed, score
        FROM predictions
        WHERE model = :model AND version = :version
          AND event_time >= :start AND event_time < :end
          AND (CAST(:route AS text) IS NULL OR route = :route)
          AND NOT (:as_assigned AND chosen_version IS NOT NULL)
        UNION ALL
        SELECT prediction_id, event_time, true, NULL
        FROM predictions
        WHERE model = :model AND chosen_version = :version
          AND event_time >= :start AND event_time < :end
          AND (CAST(:route AS text) IS NULL OR route = :route)
    ) p
    LEFT JOIN LATERAL (
        SELECT label FROM outcomes
        WHERE outcomes.prediction_id = p.prediction_id
          AND (CAST(:known_at AS bigint) IS NULL OR outcomes.arrival_time <= :known_at)
        ORDER BY outcomes.event_time DESC, outcomes.arrival_time DESC
        LIMIT 1
    ) o ON true
    ORDER BY p.event_time
"""

_PAIRS = """
    SELECT p.prediction_id IS NOT NULL AS paired, s.status = 0 AND p.status = 0 AS answered,
           s.status <> 0 AS failed, p.score AS primary_score, s.score AS shadow_score, o.label
    FROM shadow_predictions s
    LEFT JOIN predictions p ON p.prediction_id = s.primary_id
    LEFT JOIN LATERAL (
        SELECT label FROM outcomes
        WHERE outcomes.prediction_id = s.primary_id
          AND (CAST(:known_at AS bigint) IS NULL OR outcomes.arrival_time <= :known_at)
        ORDER BY outcomes.event_time DESC, outcomes.arrival_time DESC
        LIMIT 1
    ) o ON true
    WHERE s.model = :model AND s.version = :version AND s.route = :route
      AND s.event_time >= :start AND s.event_time < :end
      AND (CAST(:primary AS bigint) IS NULL OR p.version IS NULL OR p.version = :primary)
"""
_SAMPLE = sa.text(
    """
    (SELECT prediction_id FROM predictions
     WHERE model = :model AND chosen_version = :version
       AND event_time >= :start AND event_time < :end
     ORDER BY event_time DESC, prediction_id DESC LIMIT :limit)
    UNION ALL
    (SELECT prediction_id FROM predictions
     WHERE model = :model AND version = :version
       AND event_time >= :start AND event_time < :end
     ORDER BY event_time DESC, prediction_id DESC LIMIT :limit)
    LIMIT :limit
    """
)
"""Those first that another version had to stand in for: they are why somebody looks."""


_STRETCH = sa.text(
    """
    SELECT least(newest.record_id, :after + CAST(:stretch AS bigint), beyond.record_id - 1) AS through,
           newest.record_id AS newest
    FROM (SELECT coalesce(max(record_id), 0) AS record_id FROM records) newest,
         (SELECT min(record_id) AS record_id FROM records
          WHERE record_id > :after AND record_id <= :after + CAST(:stretch AS bigint)
            AND record_time > CAST(:until AS bigint)) beyond
    """
)
_SAMPLED_RECORDS = sa.text(
    """
    SELECT record_id, record_time, payload FROM (
        SELECT record_id, record_time, payload,
               sum(octet_length(payload)) OVER (ORDER BY record_id) AS size
        FROM (SELECT * FROM records
              WHERE record_id > :after AND record_id <= :through
                AND (hashint8(record_id) & 2147483647) % 10000 < :basis_points
              ORDER BY record_id LIMIT :limit) taken
    ) measured
    WHERE size - octet_length(payload) < :bytes
    ORDER BY record_id
    """
)
STRETCH = 10_000
"""Numbers of records that one sample looks through."""
SAMPLED_RECORDS = 256
SAMPLED_BYTES = 1_500_000
"""A further record is taken while there are fewer; one has 2 MiB at most, and a message 4 MiB."""


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
            stored = 0
            for table, columns, ours in (
                (
                    tables.PREDICTIONS,
                    _PREDICTION_COLUMNS,
                    [e for e in numbered if not e[1].is_shadow],
                ),
                (
                    tables.SHADOW_PREDICTIONS,
                    _SHADOW_COLUMNS,
                    [e for e in numbered if e[1].is_shadow],
                ),
            ):
                rows = [row for number, record in ours for row in _prediction_rows(number, record)]
                new = await copy.insert_new(connection, table, columns, rows) if rows else 0
                if new < len(rows):
                    await _delete_empty(connection, table, [number for number, _ in ours])
                stored += new
        return stored

    async def add_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """Store outcomes that say something else than was known; return how many did."""
        given = {
            "prediction_ids": [each.prediction_id for each in outcomes],
            "event_times": [each.event_time for each in outcomes],
            "arrival_times": [each.arrival_time for each in outcomes],
            "labels": [each.label for each in outcomes],
        }
        async with engine.transaction(self._database) as connection:
            return (await connection.execute(_ADD_OUTCOMES, given)).rowcount

    async def prediction(self, prediction_id: str) -> ports.StoredPrediction:
        """Return one prediction. Raises NotFoundError."""
        async with engine.transaction(self._database) as connection:
            found = await _find(connection, prediction_id)
            if found is None:
                raise errors.NotFoundError(
                    errors.Reason.PREDICTION_NOT_FOUND,
                    f"no record is stored for prediction {prediction_id}",
                )
            known = await _outcomes(connection, found.primary_id or prediction_id)
            copies = await _copies(connection, prediction_id)
        return ports.StoredPrediction(
            found.payload, found.position, found.record_time, known, copies
        )

    async def list_predictions(
        self, which: ports.ListFilter, before: tuple[int, str] | None, limit: int
    ) -> list[ports.Listed]:
        """Return predictions, newest event time first, those before one."""
        table = _table(which)
        query = sa.select(
            table.c.prediction_id,
            table.c.model,
            table.c.version,
            table.c.route,
            table.c.event_time,
            table.c.status,
            _primary_id(table),
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
                row.primary_id,
            )
            for row in rows
        ]

    async def count_predictions(self, which: ports.ListFilter) -> int:
        """Return how many predictions match."""
        query = sa.select(sa.func.count()).select_from(_table(which)).where(*_conditions(which))
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
        """Return a model's versions that were asked, with first and last event time."""
        table = tables.PREDICTIONS
        answered = sa.select(table.c.version, table.c.event_time).where(table.c.model == model)
        failed_over = sa.select(table.c.chosen_version, table.c.event_time).where(
            table.c.model == model, table.c.chosen_version.is_not(None)
        )
        each = sa.union_all(answered, failed_over).subquery()
        query = (
            sa.select(
                each.c.version, sa.func.min(each.c.event_time), sa.func.max(each.c.event_time)
            )
            .group_by(each.c.version)
            .order_by(each.c.version)
        )
        async with engine.transaction(self._reports) as connection:
            rows = (await connection.execute(query)).all()
        return [(VersionKey(model, version), first, last) for version, first, last in rows]

    async def scored(
        self,
        version: VersionKey,
        window: Window,
        known_at: int | None,
        *,
        route: str | None = None,
        as_assigned: bool = False,
    ) -> Scored:
        """Return a version's predictions in a window with the newest outcome known at a time."""
        values = {
            "model": version.model,
            "version": version.version,
            "start": window.start,
            "end": window.end,
            "known_at": known_at,
            "route": route,
            "as_assigned": as_assigned,
        }
        async with engine.transaction(self._reports) as connection:
            rows = (await connection.execute(sa.text(_SCORED), values)).all()
        return Scored(
            np.array([row.event_time for row in rows], dtype=np.int64),
            np.array([row.failed for row in rows], dtype=np.bool_),
            np.array([row.score for row in rows], dtype=np.float64),
            np.array([row.label for row in rows], dtype=np.float64),
        )

    async def pairs(
        self,
        route: str,
        shadow: VersionKey,
        primary: int | None,
        window: Window,
        known_at: int | None,
    ) -> Pairs:
        """Return a shadow's copies on a route with what they copy, by a version if one is given."""
        values = {
            "route": route,
            "model": shadow.model,
            "version": shadow.version,
            "primary": primary,
            "start": window.start,
            "end": window.end,
            "known_at": known_at,
        }
        async with engine.transaction(self._reports) as connection:
            rows = (await connection.execute(sa.text(_PAIRS), values)).all()
        return Pairs(
            np.array([row.paired for row in rows], dtype=np.bool_),
            np.array([row.answered for row in rows], dtype=np.bool_),
            np.array([row.failed for row in rows], dtype=np.bool_),
            np.array([row.primary_score for row in rows], dtype=np.float64),
            np.array([row.shadow_score for row in rows], dtype=np.float64),
            np.array([row.label for row in rows], dtype=np.float64),
        )

    async def sample(self, version: VersionKey, window: Window, limit: int) -> list[str]:
        """Return some prediction ids of a window, first those that failed over."""
        values = {
            "model": version.model,
            "version": version.version,
            "start": window.start,
            "end": window.end,
            "limit": limit,
        }
        async with engine.transaction(self._database) as connection:
            found = (await connection.execute(_SAMPLE, values)).scalars()
            return [str(each) for each in found]

    async def sample_records(
        self, after: int, basis_points: int, until: int | None
    ) -> ports.RecordSample:
        """Return a share of the records after one, before the first that was stored after a time."""
        async with engine.transaction(self._reports) as connection:
            given = {"after": after, "stretch": STRETCH, "until": until}
            stretch = (await connection.execute(_STRETCH, given)).one()
            wanted = {
                "after": after,
                "through": stretch.through,
                "basis_points": basis_points,
                "limit": SAMPLED_RECORDS,
                "bytes": SAMPLED_BYTES,
            }
            rows = (await connection.execute(_SAMPLED_RECORDS, wanted)).all()
            through = max(after, stretch.through)
            if rows and await _is_cut(connection, {**wanted, "after": rows[-1].record_id}):
                through = rows[-1].record_id
        records = tuple(ports.KeptRecord(*row) for row in rows)
        return ports.RecordSample(records, through, stretch.newest)

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


async def _is_cut(connection: AsyncConnection, wanted: Mapping[str, int]) -> bool:
    """Tells whether a sample had no room for all records of its stretch."""
    more = await connection.execute(_SAMPLED_RECORDS, {**wanted, "limit": 1})
    return more.first() is not None


def _record_row(record_id: int, record: Record, now: int) -> dict[str, object]:
    return {
        "record_id": record_id,
        "payload": record.payload,
        "record_time": now,
        # What shadows saw is not counted into profiles.
        "profiled": record.is_shadow,
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
            entry.primary_id if record.is_shadow else entry.chosen_version,
        )
        for position, entry in enumerate(record.entries)
    ]


async def _find(connection: AsyncConnection, prediction_id: str) -> sa.Row[Any] | None:
    """Returns where a prediction's story is, whoever got its answer."""
    for table in (tables.PREDICTIONS, tables.SHADOW_PREDICTIONS):
        query = _stories(table).where(table.c.prediction_id == prediction_id)
        found: sa.Row[Any] | None = (await connection.execute(query)).one_or_none()
        if found is not None:
            return found
    return None


async def _copies(
    connection: AsyncConnection, prediction_id: str
) -> tuple[ports.StoredPrediction, ...]:
    table = tables.SHADOW_PREDICTIONS
    query = (
        _stories(table)
        .where(table.c.primary_id == prediction_id)
        .order_by(table.c.version, table.c.prediction_id)
    )
    rows = (await connection.execute(query)).all()
    return tuple(
        ports.StoredPrediction(row.payload, row.position, row.record_time, ()) for row in rows
    )


async def _outcomes(connection: AsyncConnection, prediction_id: str) -> tuple[Outcome, ...]:
    table = tables.OUTCOMES
    query = (
        sa.select(table.c.label, table.c.event_time, table.c.arrival_time)
        .where(table.c.prediction_id == prediction_id)
        .order_by(table.c.event_time.desc(), table.c.arrival_time.desc())
    )
    return tuple(Outcome(prediction_id, *row) for row in (await connection.execute(query)).all())


def _stories(table: sa.Table) -> sa.Select[Any]:
    records = tables.RECORDS
    return sa.select(
        records.c.payload, table.c.position, records.c.record_time, _primary_id(table)
    ).join(records, records.c.record_id == table.c.record_id)


def _table(which: ports.ListFilter) -> sa.Table:
    return tables.SHADOW_PREDICTIONS if which.are_shadows else tables.PREDICTIONS


def _primary_id(table: sa.Table) -> sa.ColumnElement[Any]:
    """What a prediction copies; nothing for one that a caller got."""
    found = table.c.get("primary_id")
    return sa.null().label("primary_id") if found is None else found


async def _delete_empty(
    connection: AsyncConnection, table: sa.Table, record_ids: Sequence[int]
) -> None:
    """Deletes records all of whose predictions came before."""
    records = tables.RECORDS
    has_own = sa.exists().where(table.c.record_id == records.c.record_id)
    await connection.execute(
        sa.delete(records).where(records.c.record_id.in_(record_ids), ~has_own)
    )


def _conditions(which: ports.ListFilter) -> list[sa.ColumnElement[bool]]:
    table = _table(which)
    conditions: list[sa.ColumnElement[bool]] = []
    if which.model is not None:
        conditions.append(table.c.model == which.model)
    if which.version is not None:
        conditions.append(table.c.version == which.version)
    if which.window is not None:
        conditions.append(table.c.event_time >= which.window.start)
        conditions.append(table.c.event_time < which.window.end)
    return conditions
