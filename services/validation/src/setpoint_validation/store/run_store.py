"""Judged tables in PostgreSQL; implements `ports.RunStore`."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_runtime import errors
from setpoint_validation import convert, ports
from setpoint_validation.domain import run as domain
from setpoint_validation.domain.run import Run
from setpoint_validation.store import documents, pages
from setpoint_validation.store.tables import requests, runs

_Row = sa.Row[*tuple[Any, ...]]
_METHOD = "ValidateBatch"


class RunStore:
    """Runs, only ever added to."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Keep the engine; its search path is the schema."""
        self._engine = engine

    async def is_known(self, request_id: str) -> bool:
        """Say whether a request with this id was answered before."""
        async with engines.transaction(self._engine) as connection:
            return await _is_known(connection, request_id)

    async def find_run(self, request: ports.Request) -> Run | None:
        """Return the run that the request made before, if it did."""

        async def work() -> bytes:
            # Only when the request was forgotten between the two statements.
            raise errors.AbortedError(
                errors.Reason.UNAVAILABLE, f"request {request.request_id} is being forgotten"
            )

        async with engines.transaction(self._engine) as connection:
            if not await _is_known(connection, request.request_id):
                return None
            run_id, _ = await _once(connection, request, work)
            return await _run(connection, run_id)

    async def add_run(self, request: ports.Request, run: Run) -> tuple[Run, bool]:
        """Store a run once per request; return the stored one and whether it was there before."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                await _write(connection, run)
                return run.run_id.encode()

            run_id, replayed = await _once(connection, request, work)
            return (await _run(connection, run_id) if replayed else run), replayed

    async def get_run(self, run_id: str) -> Run:
        """Return a run."""
        async with engines.transaction(self._engine) as connection:
            return await _run(connection, run_id)

    async def list_runs(
        self, suite: str, before: int | None, limit: int
    ) -> tuple[list[Run], int | None]:
        """Return runs, newest first, and where the next page begins if there is one."""
        newest = runs.c.sequence.desc()
        sizes = sa.select(runs.c.sequence, runs.c.size).order_by(newest).limit(limit + 1)
        if suite:
            sizes = sizes.where(runs.c.suite == suite)
        if before is not None:
            sizes = sizes.where(runs.c.sequence < before)
        async with engines.transaction(self._engine) as connection:
            found = (await connection.execute(sizes)).all()
            count = pages.fitting([row.size for row in found], limit)
            chosen = [row.sequence for row in found[:count]]
            statement = sa.select(runs).where(runs.c.sequence.in_(chosen)).order_by(newest)
            page = [_to_run(row) for row in await connection.execute(statement)]
        return page, chosen[-1] if len(found) > count else None


async def _is_known(connection: AsyncConnection, request_id: str) -> bool:
    statement = sa.select(requests.c.request_id).where(requests.c.request_id == request_id.lower())
    return (await connection.execute(statement)).first() is not None


async def _once(connection: AsyncConnection, request: ports.Request, work: Any) -> tuple[str, bool]:
    """Do the work once per request id; it returns the id of the run it made."""
    fingerprint = idempotency.fingerprint(request.fingerprint)
    run_id, replayed = await idempotency.once(
        connection, requests, request.request_id, _METHOD, fingerprint, work
    )
    return run_id.decode(), replayed


async def _run(connection: AsyncConnection, run_id: str) -> Run:
    row = (await connection.execute(sa.select(runs).where(runs.c.run_id == run_id))).first()
    if row is None:
        raise domain.not_found(run_id)
    return _to_run(row)


async def _write(connection: AsyncConnection, run: Run) -> None:
    await connection.execute(
        sa.insert(runs).values(
            run_id=run.run_id,
            suite=run.suite,
            suite_version=run.suite_version,
            source=run.source,
            passed=run.passed,
            rows=run.rows,
            results=documents.results_to_json(run.results),
            size=convert.run_to_proto(run).ByteSize(),
            create_time=run.create_time,
        )
    )


def _to_run(row: _Row) -> Run:
    return Run(
        str(row.run_id),
        row.suite,
        row.suite_version,
        row.source,
        row.passed,
        row.rows,
        documents.results_from_json(row.results),
        row.create_time,
    )
