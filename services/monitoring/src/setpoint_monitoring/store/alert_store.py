"""Alerts and how far windows are judged, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_db import engine
from setpoint_monitoring.domain.alerting import Progress, State
from setpoint_monitoring.domain.records import Alert, AlertKey, VersionKey
from setpoint_monitoring.store import tables
from setpoint_runtime import errors


class AlertStore:
    """Implements `ports.AlertStore`."""

    def __init__(self, database: AsyncEngine) -> None:
        """Take the engine."""
        self._database = database

    async def evaluated_until(self, version: VersionKey, cause: int) -> int | None:
        """Return the end of the last judged window."""
        query = sa.select(tables.EVALUATIONS.c.evaluated_until).where(*_evaluation(version, cause))
        async with engine.transaction(self._database) as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def unresolved(self, version: VersionKey, cause: int) -> list[Alert]:
        """Return alerts that are not over."""
        table = tables.ALERTS
        query = sa.select(table).where(
            table.c.model == version.model,
            table.c.version == version.version,
            table.c.cause == cause,
            table.c.state != State.RESOLVED,
        )
        async with engine.transaction(self._database) as connection:
            return [_alert(row) for row in await connection.execute(query)]

    async def save(
        self,
        version: VersionKey,
        cause: int,
        previous: int | None,
        until: int,
        alerts: Sequence[Alert],
        ended: Sequence[str],
    ) -> bool:
        """Store alerts, delete those that came to nothing, and note how far windows are judged."""
        async with engine.transaction(self._database) as connection:
            if not await _move_on(connection, version, cause, previous, until):
                return False
            if ended:
                table = tables.ALERTS
                await connection.execute(sa.delete(table).where(table.c.alert_id.in_(ended)))
            for alert in alerts:
                await _put(connection, alert)
        return True

    async def get(self, alert_id: str) -> Alert:
        """Return an alert. Raises NotFoundError."""
        async with engine.transaction(self._database) as connection:
            return await _find(connection, alert_id)

    async def list(
        self, model: str | None, states: Sequence[int], before: tuple[int, str] | None, limit: int
    ) -> list[Alert]:
        """Return alerts by start, newest first, those before one."""
        table = tables.ALERTS
        query = sa.select(table)
        if model is not None:
            query = query.where(table.c.model == model)
        if states:
            query = query.where(table.c.state.in_(states))
        if before is not None:
            cursor = sa.tuple_(sa.literal(before[0]), sa.cast(before[1], table.c.alert_id.type))
            query = query.where(sa.tuple_(table.c.start_time, table.c.alert_id) < cursor)
        query = query.order_by(table.c.start_time.desc(), table.c.alert_id.desc()).limit(limit)
        async with engine.transaction(self._database) as connection:
            return [_alert(row) for row in await connection.execute(query)]

    async def acknowledge(self, alert_id: str, actor: str) -> Alert:
        """Move a firing alert to acknowledged; an acknowledged one stays as it is."""
        table = tables.ALERTS
        async with engine.transaction(self._database) as connection:
            await connection.execute(
                sa.update(table)
                .where(table.c.alert_id == alert_id, table.c.state == State.FIRING)
                .values(state=int(State.ACKNOWLEDGED), acknowledged_by=actor)
            )
            return await _find(connection, alert_id)


def _evaluation(version: VersionKey, cause: int) -> list[sa.ColumnElement[bool]]:
    table = tables.EVALUATIONS
    return [
        table.c.model == version.model,
        table.c.version == version.version,
        table.c.cause == cause,
    ]


async def _move_on(
    connection: AsyncConnection, version: VersionKey, cause: int, previous: int | None, until: int
) -> bool:
    table = tables.EVALUATIONS
    if previous is None:
        first = (
            postgresql.insert(table)
            .values(
                model=version.model, version=version.version, cause=cause, evaluated_until=until
            )
            .on_conflict_do_nothing()
        )
        return (await connection.execute(first)).rowcount == 1
    later = (
        sa.update(table)
        .where(*_evaluation(version, cause), table.c.evaluated_until == previous)
        .values(evaluated_until=until)
    )
    return (await connection.execute(later)).rowcount == 1


async def _put(connection: AsyncConnection, alert: Alert) -> None:
    values: dict[str, Any] = {
        "alert_id": alert.alert_id,
        "model": alert.key.version.model,
        "version": alert.key.version.version,
        "cause": alert.key.cause,
        "subject": alert.key.subject,
        "state": int(alert.state),
        "breaches": list(alert.progress.breaches),
        "calm": alert.progress.calm,
        "start_time": alert.start_time,
        "fire_time": alert.fire_time,
        "resolve_time": alert.resolve_time,
        "value": alert.value,
        "threshold": alert.threshold,
        "summary": alert.summary,
        "prediction_ids": list(alert.prediction_ids),
        "acknowledged_by": alert.acknowledged_by,
    }
    insert = postgresql.insert(tables.ALERTS).values(values)
    # Somebody may have taken the alert while the windows were judged.
    state = tables.ALERTS.c.state
    is_taken = sa.and_(state == State.ACKNOWLEDGED, insert.excluded.state == State.FIRING)
    changed = {**values, "state": sa.case((is_taken, state), else_=insert.excluded.state)}
    del changed["acknowledged_by"]
    await connection.execute(
        insert.on_conflict_do_update(index_elements=["alert_id"], set_=changed)
    )


async def _find(connection: AsyncConnection, alert_id: str) -> Alert:
    query = sa.select(tables.ALERTS).where(tables.ALERTS.c.alert_id == alert_id)
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        raise errors.NotFoundError(errors.Reason.ALERT_NOT_FOUND, f"there is no alert {alert_id}")
    return _alert(found)


def _alert(row: sa.Row[Any]) -> Alert:
    return Alert(
        alert_id=row.alert_id,
        key=AlertKey(VersionKey(row.model, row.version), row.cause, row.subject),
        progress=Progress(State(row.state), tuple(row.breaches), row.calm),
        start_time=row.start_time,
        fire_time=row.fire_time,
        resolve_time=row.resolve_time,
        value=row.value,
        threshold=row.threshold,
        summary=row.summary,
        prediction_ids=tuple(row.prediction_ids),
        acknowledged_by=row.acknowledged_by,
    )
