"""Jobs in PostgreSQL."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_batch import ports
from setpoint_batch.domain import job as jobs
from setpoint_batch.domain.job import Job, Part
from setpoint_batch.store import documents, tables
from setpoint_db import engine, idempotency
from setpoint_runtime import errors

_CLAIM = sa.text(
    """
    UPDATE batch_predictions SET lease_holder = :holder, etag = etag + 1,
        lease_until = now() + make_interval(secs => :seconds)
    WHERE job_id = (
        SELECT job_id FROM batch_predictions
        WHERE state <= 3 AND (lease_until IS NULL OR lease_until < now())
        ORDER BY job_id FOR UPDATE SKIP LOCKED LIMIT 1)
    RETURNING job_id, body, etag
    """
)

_EXTEND = sa.text(
    """
    UPDATE batch_predictions SET lease_until = now() + make_interval(secs => :seconds)
    WHERE job_id = :job_id AND lease_holder = :holder AND state IN (1, 2)
    """
)

_FORGET = sa.text(
    """
    WITH forgotten AS (
        UPDATE batch_predictions SET rows = ''::bytea, plan = NULL
        WHERE state >= 4 AND (body ->> 'end_time')::bigint < :before
            AND (plan IS NOT NULL OR rows <> ''::bytea)
        RETURNING job_id),
    parted AS (DELETE FROM parts USING forgotten WHERE parts.job_id = forgotten.job_id)
    SELECT count(*) FROM forgotten
    """
)

_BEGUN, _FOUND = b"begun:", b"found:"


class SQLStore:
    """Implements `ports.Store`."""

    def __init__(self, database: AsyncEngine) -> None:
        """Take the engine."""
        self._database = database

    async def start(
        self, request_id: str, fingerprint: bytes, job: Job, rows: bytes, *, rerun: bool
    ) -> tuple[Job, bool, bool]:
        """Store a job or find the one of its name and time; say if it was begun, if a replay."""
        async with engine.transaction(self._database) as connection:

            async def work() -> bytes:
                insert = postgresql.insert(tables.JOBS).values(**_row(job), rows=rows)
                added = insert.on_conflict_do_nothing(constraint="batch_predictions_name_and_time")
                if (await connection.execute(added)).rowcount == 1:
                    return _BEGUN + job.job_id.encode()
                return await _begin_again(connection, job, rows, rerun=rerun)

            answer, replayed = await idempotency.once(
                connection, tables.REQUESTS, request_id, "StartBatchPrediction", fingerprint, work
            )
            kind, job_id = answer[: len(_BEGUN)], answer[len(_BEGUN) :].decode()
            return await _find(connection, job_id), kind == _BEGUN, replayed

    async def cancel(
        self, request_id: str, fingerprint: bytes, job_id: str, now: int
    ) -> tuple[Job, bool]:
        """Cancel a job; say whether this was a replay. Raises FailedPreconditionError."""
        async with engine.transaction(self._database) as connection:

            async def work() -> bytes:
                found = await _find(connection, job_id, is_changed=True)
                await _update(connection, found.etag, jobs.cancelled(found, now))
                return b"cancelled"

            _, replayed = await idempotency.once(
                connection, tables.REQUESTS, request_id, "CancelBatchPrediction", fingerprint, work
            )
            return await _find(connection, job_id), replayed

    async def job(self, job_id: str) -> Job:
        """Return a job. Raises NotFoundError."""
        async with engine.transaction(self._database) as connection:
            return await _find(connection, job_id)

    async def jobs(self, name: str | None, before: str | None, limit: int) -> list[Job]:
        """Return jobs, newest first, those before one."""
        table = tables.JOBS
        query = sa.select(table.c.job_id, table.c.body, table.c.etag)
        query = query.order_by(table.c.job_id.desc()).limit(limit)
        if name is not None:
            query = query.where(table.c.name == name)
        if before is not None:
            query = query.where(table.c.job_id < before)
        async with engine.transaction(self._database) as connection:
            rows = await connection.execute(query)
            return [documents.job_from_json(*row) for row in rows]

    async def save(self, job: Job) -> Job:
        """Store a changed job. Raises AbortedError if somebody else changed it since."""
        async with engine.transaction(self._database) as connection:
            return await _update(connection, job.etag, replace(job, etag=job.etag + 1))

    async def save_plan(self, job: Job, plan: ports.Json) -> Job:
        """Store a changed job with its plan, without parts. Raises AbortedError."""
        changed = replace(job, etag=job.etag + 1)
        async with engine.transaction(self._database) as connection:
            saved = await _update(connection, job.etag, changed, plan=plan)
            await _forget_parts(connection, job.job_id)
            return saved

    async def save_parts(self, job: Job, added: Part | None, removed: frozenset[int]) -> Job:
        """Store a changed job, a part that is done, and forget others. Raises AbortedError."""
        table = tables.PARTS
        async with engine.transaction(self._database) as connection:
            saved = await _update(connection, job.etag, replace(job, etag=job.etag + 1))
            if removed:
                lost = sa.and_(table.c.job_id == job.job_id, table.c.number.in_(removed))
                await connection.execute(sa.delete(table).where(lost))
            if added is not None:
                body = dataclasses.asdict(added)
                await connection.execute(
                    sa.insert(table).values(job_id=job.job_id, number=added.number, body=body)
                )
            return saved

    async def work_of(self, job_id: str) -> tuple[bytes, ports.Json | None, list[Part]]:
        """Return a job's inline rows, its plan and the parts that are done."""
        table, parts = tables.JOBS, tables.PARTS
        query = sa.select(table.c.rows, table.c.plan).where(table.c.job_id == job_id)
        listed = sa.select(parts.c.body).where(parts.c.job_id == job_id).order_by(parts.c.number)
        async with engine.transaction(self._database) as connection:
            rows, plan = (await connection.execute(query)).one()
            bodies = (await connection.execute(listed)).scalars()
            return bytes(rows), plan, [Part(**body) for body in bodies]

    async def forget(self, before_us: int) -> int:
        """Drop what jobs that ended before a time keep for a resume; say how many jobs those were."""
        async with engine.transaction(self._database) as connection:
            return int((await connection.execute(_FORGET, {"before": before_us})).scalar_one())

    async def claim(self, holder: str, lease_seconds: float) -> Job | None:
        """Take a job that waits for a worker, or whose worker is gone."""
        async with engine.transaction(self._database) as connection:
            values = {"holder": holder, "seconds": lease_seconds}
            row = (await connection.execute(_CLAIM, values)).one_or_none()
        return documents.job_from_json(str(row.job_id), row.body, row.etag) if row else None

    async def extend(self, job_id: str, holder: str, lease_seconds: float) -> bool:
        """Keep a claimed job; False if another holds it, or it is to be cancelled."""
        async with engine.transaction(self._database) as connection:
            values = {"job_id": job_id, "holder": holder, "seconds": lease_seconds}
            return bool((await connection.execute(_EXTEND, values)).rowcount == 1)


async def _begin_again(connection: AsyncConnection, job: Job, rows: bytes, *, rerun: bool) -> bytes:
    """Decide about the job of the same name and time, whose row stays locked meanwhile."""
    table = tables.JOBS
    query = sa.select(table.c.job_id, table.c.body, table.c.etag).where(
        table.c.name == job.spec.name, table.c.event_time == job.spec.event_time
    )
    row = (await connection.execute(query.with_for_update())).one()
    found = documents.job_from_json(*row)
    begun = jobs.again(found, job, rerun=rerun)
    if begun is None:
        return _FOUND + found.job_id.encode()
    nobody: dict[str, Any] = {"plan": None, "lease_holder": None, "lease_until": None}
    await _update(connection, found.etag, begun, rows=rows, **nobody)
    await _forget_parts(connection, found.job_id)
    return _BEGUN + found.job_id.encode()


async def _forget_parts(connection: AsyncConnection, job_id: str) -> None:
    await connection.execute(sa.delete(tables.PARTS).where(tables.PARTS.c.job_id == job_id))


async def _update(connection: AsyncConnection, etag: int, changed: Job, **more: Any) -> Job:
    update = (
        sa.update(tables.JOBS)
        .where(tables.JOBS.c.job_id == changed.job_id, tables.JOBS.c.etag == etag)
        .values(**_row(changed), **more)
    )
    if (await connection.execute(update)).rowcount != 1:
        raise errors.AbortedError(
            errors.Reason.ETAG_MISMATCH,
            f"batch prediction {changed.job_id} was changed by somebody else",
        )
    return changed


def _row(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "name": job.spec.name,
        "event_time": job.spec.event_time,
        "state": int(job.state),
        "etag": job.etag,
        "body": documents.job_to_json(job),
    }


async def _find(connection: AsyncConnection, job_id: str, *, is_changed: bool = False) -> Job:
    table = tables.JOBS
    query = sa.select(table.c.job_id, table.c.body, table.c.etag).where(table.c.job_id == job_id)
    row = (await connection.execute(query.with_for_update() if is_changed else query)).one_or_none()
    if row is None:
        raise errors.NotFoundError(
            errors.Reason.BATCH_PREDICTION_NOT_FOUND, f"there is no batch prediction {job_id}"
        )
    return documents.job_from_json(*row)
