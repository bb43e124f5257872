"""What is known about training sets, in PostgreSQL."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_columns import DataType
from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_feature import ports
from setpoint_feature.domain import training_set
from setpoint_feature.store import tables
from setpoint_runtime import errors

snapshots = sqlalchemy.Table(
    "snapshots",
    tables.metadata,
    # A UUIDv7, so the order of ids is that of creation.
    sqlalchemy.Column("snapshot_id", sqlalchemy.Uuid(as_uuid=False), primary_key=True),
    sqlalchemy.Column("feature_set", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("version", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("digest", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("rows", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("start_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("end_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("create_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("content", sqlalchemy.JSON, nullable=False),
    # 0 for those that stay until they are deleted.
    sqlalchemy.Column("expire_time", sqlalchemy.BigInteger, nullable=False, server_default="0"),
)
_PLAIN = (
    "snapshot_id",
    "feature_set",
    "version",
    "digest",
    "rows",
    "start_time",
    "end_time",
    "create_time",
    "expire_time",
)


class SQLTrainingSetStore:
    """Implements `ports.TrainingSetStore`."""

    def __init__(self, engine: sqlalchemy_asyncio.AsyncEngine) -> None:
        """Uses an engine whose schema is the service's."""
        self._engine = engine

    async def add(
        self, wish: ports.Wish, made: training_set.TrainingSet
    ) -> training_set.TrainingSet:
        """Stores one, once per request id; returns the one that is stored."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                row = {name: getattr(made, name) for name in _PLAIN}
                content = _to_document(made)
                await connection.execute(
                    sqlalchemy.insert(snapshots).values(**row, content=content)
                )
                return made.snapshot_id.encode("ascii")

            answer, _ = await idempotency.once(
                connection, tables.requests, wish.request_id, wish.method, wish.fingerprint, work
            )
            return await _get(connection, answer.decode("ascii"))

    async def get(self, snapshot_id: str) -> training_set.TrainingSet:
        """Returns one."""
        async with engines.transaction(self._engine) as connection:
            return await _get(connection, snapshot_id)

    async def page(
        self, feature_set: str, before: str, limit: int
    ) -> list[training_set.TrainingSet]:
        """Returns the newest ones before one, of a feature set or all, by their ids."""
        columns = snapshots.c
        query = sqlalchemy.select(snapshots).order_by(columns.snapshot_id.desc()).limit(limit)
        if feature_set:
            query = query.where(columns.feature_set == feature_set)
        if before:
            query = query.where(columns.snapshot_id < before)
        async with engines.transaction(self._engine) as connection:
            return [_from_row(row) for row in (await connection.execute(query)).all()]

    async def delete(self, wish: ports.Wish, snapshot_id: str) -> bool:
        """Removes one, once per request id; tells whether this is a replay."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                where = snapshots.c.snapshot_id == snapshot_id
                removed = await connection.execute(sqlalchemy.delete(snapshots).where(where))
                if removed.rowcount == 0:
                    raise _not_found(snapshot_id)
                return b""

            _, replayed = await idempotency.once(
                connection, tables.requests, wish.request_id, wish.method, wish.fingerprint, work
            )
        return replayed

    async def expire(self, now: int, limit: int) -> list[str]:
        """Removes some of those whose stated life is over; returns their ids."""
        columns = snapshots.c
        over = (
            sqlalchemy.select(columns.snapshot_id)
            .where(columns.expire_time > 0, columns.expire_time <= now)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        removal = (
            sqlalchemy.delete(snapshots)
            .where(columns.snapshot_id.in_(over))
            .returning(columns.snapshot_id)
        )
        async with engines.transaction(self._engine) as connection:
            return list((await connection.execute(removal)).scalars())

    async def missing(self, snapshot_ids: Sequence[str]) -> list[str]:
        """Returns which of some ids are of no training set."""
        column = snapshots.c.snapshot_id
        query = sqlalchemy.select(column).where(column.in_(snapshot_ids))
        async with engines.transaction(self._engine) as connection:
            there = set((await connection.execute(query)).scalars())
        return [each for each in snapshot_ids if each not in there]


async def _get(
    connection: sqlalchemy_asyncio.AsyncConnection, snapshot_id: str
) -> training_set.TrainingSet:
    query = sqlalchemy.select(snapshots).where(snapshots.c.snapshot_id == snapshot_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise _not_found(snapshot_id)
    return _from_row(row)


def _to_document(made: training_set.TrainingSet) -> dict[str, object]:
    return {
        "columns": [[name, int(dtype)] for name, dtype in made.columns],
        "spine_columns": made.spine_columns,
        "views": [[each.view, each.version, each.sequence] for each in made.views],
        "parts": [[each.rows, each.size, each.digest] for each in made.parts],
        "time_column": made.time_column,
        "arrival": made.arrival,
        "description": made.description,
    }


def _from_row(row: Any) -> training_set.TrainingSet:
    content = row.content
    return training_set.TrainingSet(
        **{name: getattr(row, name) for name in _PLAIN},
        columns=tuple((name, DataType(number)) for name, number in content["columns"]),
        spine_columns=content["spine_columns"],
        views=tuple(training_set.ViewSequence(*each) for each in content["views"]),
        parts=tuple(training_set.Part(*each) for each in content["parts"]),
        time_column=content["time_column"],
        arrival=content["arrival"],
        description=content["description"],
    )


def _not_found(snapshot_id: str) -> errors.NotFoundError:
    return errors.NotFoundError(
        errors.Reason.SNAPSHOT_NOT_FOUND,
        f"there is no snapshot {snapshot_id}",
        metadata={"snapshot_id": snapshot_id},
    )
