"""Policies and runs in PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_db import engine, failures, idempotency
from setpoint_retraining.domain.policy import Policy
from setpoint_retraining.domain.run import Run, RunState
from setpoint_retraining.store import documents, tables
from setpoint_runtime import errors

_ONE_AT_A_TIME = "runs_one_at_a_time"

_CLAIM = sa.text(
    """
    UPDATE runs SET lease_holder = :holder, etag = etag + 1,
        lease_until = now() + make_interval(secs => :seconds)
    WHERE run_id = (
        SELECT run_id FROM runs
        WHERE state IN (1, 2) AND (lease_until IS NULL OR lease_until < now())
        ORDER BY run_id FOR UPDATE SKIP LOCKED LIMIT 1)
    RETURNING body, etag
    """
)

_EXTEND = sa.text(
    """
    UPDATE runs SET lease_until = now() + make_interval(secs => :seconds)
    WHERE run_id = :run_id AND lease_holder = :holder AND state IN (1, 2)
    """
)


class SQLStore:
    """Implements `ports.Store`."""

    def __init__(self, database: AsyncEngine) -> None:
        """Take the engine."""
        self._database = database

    async def put_policy(
        self, request_id: str, fingerprint: bytes, policy: Policy
    ) -> tuple[Policy, bool]:
        """Store a policy, replacing one of its name; say whether this was a replay."""
        body = documents.policy_to_json(policy)

        async with engine.transaction(self._database) as connection:

            async def work() -> bytes:
                insert = postgresql.insert(tables.POLICIES).values(name=policy.name, body=body)
                await connection.execute(
                    insert.on_conflict_do_update(index_elements=["name"], set_={"body": body})
                )
                return json.dumps(body).encode()

            answer, replayed = await idempotency.once(
                connection, tables.REQUESTS, request_id, "PutPolicy", fingerprint, work
            )
        return documents.policy_from_json(json.loads(answer)), replayed

    async def policy(self, name: str) -> Policy:
        """Return a policy. Raises NotFoundError."""
        query = sa.select(tables.POLICIES.c.body).where(tables.POLICIES.c.name == name)
        async with engine.transaction(self._database) as connection:
            body = (await connection.execute(query)).scalar_one_or_none()
        if body is None:
            raise errors.NotFoundError(
                errors.Reason.POLICY_NOT_FOUND, f"there is no policy {name!r}"
            )
        return documents.policy_from_json(body)

    async def policies(self, after: str, limit: int) -> list[Policy]:
        """Return policies by name, those after one."""
        table = tables.POLICIES
        query = sa.select(table.c.body).where(table.c.name > after).order_by(table.c.name)
        async with engine.transaction(self._database) as connection:
            rows = (await connection.execute(query.limit(limit))).scalars()
            return [documents.policy_from_json(body) for body in rows]

    async def add_run(self, request_id: str, fingerprint: bytes, run: Run) -> tuple[Run, bool]:
        """Store a new run. Raises FailedPreconditionError while another of its model goes on."""
        try:
            async with engine.transaction(self._database) as connection:

                async def work() -> bytes:
                    await connection.execute(sa.insert(tables.RUNS).values(_row(run)))
                    return run.run_id.encode()

                answer, replayed = await idempotency.once(
                    connection, tables.REQUESTS, request_id, "StartRun", fingerprint, work
                )
                return await _find(connection, answer.decode()), replayed
        except sa.exc.IntegrityError as error:
            if failures.constraint_name(error) != _ONE_AT_A_TIME:
                raise
            raise errors.FailedPreconditionError(
                errors.Reason.RUN_STATE,
                f"another run of model {run.plan.model!r} has not ended",
            ) from error

    async def run(self, run_id: str) -> Run:
        """Return a run. Raises NotFoundError."""
        async with engine.transaction(self._database) as connection:
            return await _find(connection, run_id)

    async def runs(self, model: str | None, before: str | None, limit: int) -> list[Run]:
        """Return runs, newest first, those before one."""
        table = tables.RUNS
        query = sa.select(table.c.body, table.c.etag).order_by(table.c.run_id.desc()).limit(limit)
        if model is not None:
            query = query.where(table.c.model == model)
        if before is not None:
            query = query.where(table.c.run_id < before)
        async with engine.transaction(self._database) as connection:
            rows = await connection.execute(query)
            return [documents.run_from_json(row.body, row.etag) for row in rows]

    async def save(self, run: Run) -> Run:
        """Store a changed run. Raises AbortedError if somebody else changed it since."""
        changed = replace(run, etag=run.etag + 1)
        update = (
            sa.update(tables.RUNS)
            .where(tables.RUNS.c.run_id == run.run_id, tables.RUNS.c.etag == run.etag)
            .values(_row(changed))
        )
        async with engine.transaction(self._database) as connection:
            if (await connection.execute(update)).rowcount != 1:
                raise errors.AbortedError(
                    errors.Reason.ETAG_MISMATCH, f"run {run.run_id} was changed by somebody else"
                )
        return changed

    async def claim(self, holder: str, lease_seconds: float) -> Run | None:
        """Take a run that waits for a worker, or whose worker is gone."""
        async with engine.transaction(self._database) as connection:
            values = {"holder": holder, "seconds": lease_seconds}
            row = (await connection.execute(_CLAIM, values)).one_or_none()
        return documents.run_from_json(row.body, row.etag) if row else None

    async def extend(self, run_id: str, holder: str, lease_seconds: float) -> bool:
        """Keep a claimed run; False if another holds it or it has ended."""
        async with engine.transaction(self._database) as connection:
            values = {"run_id": run_id, "holder": holder, "seconds": lease_seconds}
            return bool((await connection.execute(_EXTEND, values)).rowcount == 1)

    async def rolling_out(self) -> list[str]:
        """Return the runs whose route is shifting."""
        table = tables.RUNS
        query = sa.select(table.c.run_id).where(table.c.state == RunState.ROLLING_OUT)
        async with engine.transaction(self._database) as connection:
            return list((await connection.execute(query)).scalars())


def _row(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "model": run.plan.model,
        "state": int(run.state),
        "etag": run.etag,
        "body": documents.run_to_json(run),
    }


async def _find(connection: AsyncConnection, run_id: str) -> Run:
    table = tables.RUNS
    query = sa.select(table.c.body, table.c.etag).where(table.c.run_id == run_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise errors.NotFoundError(errors.Reason.RUN_NOT_FOUND, f"there is no run {run_id}")
    return documents.run_from_json(row.body, row.etag)
