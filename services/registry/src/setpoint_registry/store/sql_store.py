"""The store over SQLAlchemy Core; every statement of the registry is here."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_artifacts.signature import Signature
from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_registry import domain, ports
from setpoint_registry.store.tables import (
    alias_events,
    approvals,
    artifacts,
    model_versions,
    models,
    requests,
)
from setpoint_runtime import errors

_Row = sa.Row[*tuple[Any, ...]]

_VERSION = (
    sa.select(
        model_versions.c.model,
        model_versions.c.version,
        model_versions.c.manifest,
        model_versions.c.manifest_digest,
        model_versions.c.create_time,
        sa.func.coalesce(approvals.c.decision, int(domain.ApprovalState.PENDING)).label("state"),
    )
    .select_from(model_versions)
    .outerjoin(
        approvals,
        (approvals.c.model == model_versions.c.model)
        & (approvals.c.version == model_versions.c.version),
    )
)


class SqlStore:
    """Implements `ports.Store`."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Keep the engine; its search path is the schema."""
        self._engine = engine

    async def create_model(
        self, request: ports.Request, model: domain.Model
    ) -> tuple[domain.Model, bool]:
        """Add a model."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                insert = postgresql.insert(models).values(
                    name=model.name,
                    task=int(model.task),
                    description=model.description,
                    owner=model.owner,
                    create_time=model.create_time,
                )
                statement = insert.on_conflict_do_nothing().returning(models.c.name)
                if (await connection.execute(statement)).first() is None:
                    raise errors.AlreadyExistsError(
                        errors.Reason.NAME_TAKEN,
                        f"there is a model {model.name!r} already",
                        metadata={"model": model.name},
                    )
                return model.name.encode()

            name, replayed = await _once(connection, request, "CreateModel", work)
            return await _model(connection, name), replayed

    async def get_model(self, name: str) -> domain.Model:
        """Return a model."""
        async with engines.transaction(self._engine) as connection:
            return await _model(connection, name)

    async def list_models(self, after: str, limit: int) -> list[domain.Model]:
        """Return models by name, those after one."""
        # Names are ASCII; the C collation makes their order the same on every database.
        by_name = models.c.name.collate("C")
        statement = sa.select(models).where(by_name > after).order_by(by_name).limit(limit)
        async with engines.transaction(self._engine) as connection:
            return [_to_model(row) for row in await connection.execute(statement)]

    async def add_artifact(self, artifact: domain.Artifact) -> bool:
        """Remember a stored artifact; say whether it was remembered before."""
        insert = postgresql.insert(artifacts).values(
            digest=artifact.digest,
            size=artifact.size,
            format=int(artifact.format),
            signature=artifact.signature.to_json(),
            create_time=artifact.create_time,
        )
        statement = insert.on_conflict_do_nothing().returning(artifacts.c.digest)
        async with engines.transaction(self._engine) as connection:
            return (await connection.execute(statement)).first() is None

    async def get_artifact(self, digest: str) -> domain.Artifact:
        """Return an artifact."""
        statement = sa.select(artifacts).where(artifacts.c.digest == digest)
        async with engines.transaction(self._engine) as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise domain.artifact_not_found(digest)
        return domain.Artifact(
            row.digest,
            row.size,
            domain.ArtifactFormat(row.format),
            Signature.from_json(row.signature),
            row.create_time,
        )

    async def create_version(
        self,
        request: ports.Request,
        model: str,
        manifest: bytes,
        artifact_digest: str,
        parents: Sequence[domain.VersionKey],
        now: int,
    ) -> tuple[domain.ModelVersion, bool]:
        """Add the next version; the row of the model counts, and makes others wait."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                await _check_parents(connection, parents)
                counted = (
                    sa.update(models)
                    .where(models.c.name == model)
                    .values(last_version=models.c.last_version + 1)
                    .returning(models.c.last_version)
                )
                version: int | None = await connection.scalar(counted)
                if version is None:
                    raise domain.model_not_found(model)
                await connection.execute(
                    sa.insert(model_versions).values(
                        model=model,
                        version=version,
                        manifest=manifest,
                        manifest_digest=domain.manifest_digest(manifest),
                        artifact_digest=artifact_digest,
                        create_time=now,
                    )
                )
                return str(version).encode()

            number, replayed = await _once(connection, request, "CreateModelVersion", work)
            return await _version(connection, domain.VersionKey(model, int(number))), replayed

    async def get_version(self, key: domain.VersionKey) -> domain.ModelVersion:
        """Return a version."""
        async with engines.transaction(self._engine) as connection:
            return await _version(connection, key)

    async def list_versions(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.ModelVersion]:
        """Return versions, newest first, those before one."""
        statement = _VERSION.where(model_versions.c.model == model)
        if before is not None:
            statement = statement.where(model_versions.c.version < before)
        statement = statement.order_by(model_versions.c.version.desc()).limit(limit)
        async with engines.transaction(self._engine) as connection:
            found = [_to_version(row) for row in await connection.execute(statement)]
            if not found:
                await _model(connection, model)
            return found

    async def set_alias(
        self, request: ports.Request, move: domain.Alias, now: int
    ) -> tuple[domain.Alias, bool]:
        """Add an event of an alias; the lock on the model keeps its events in order."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                await _lock_model(connection, move.model)
                version = await _version(connection, domain.VersionKey(move.model, move.version))
                last = await _alias(connection, move.model, move.alias, 0)
                made = domain.settled(last, move, version.approval_state, now)
                statement = (
                    sa.insert(alias_events)
                    .values(
                        model=made.model,
                        alias=made.alias,
                        version=made.version,
                        valid_from=made.valid_from,
                        actor=made.actor,
                        reason=made.reason,
                        create_time=now,
                    )
                    .returning(alias_events.c.sequence)
                )
                return str(await connection.scalar(statement)).encode()

            number, replayed = await _once(connection, request, "SetAlias", work)
            statement = sa.select(alias_events).where(alias_events.c.sequence == int(number))
            return _to_alias((await connection.execute(statement)).one()), replayed

    async def get_alias(self, model: str, alias: str, time: int) -> domain.Alias:
        """Return the event in force, at the latest or at a time."""
        async with engines.transaction(self._engine) as connection:
            found = await _alias(connection, model, alias, time)
        if found is None:
            raise domain.alias_not_found(model, alias, time)
        return found

    async def list_alias_events(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.Alias]:
        """Return events of all aliases, newest first."""
        rows = await self._newest(alias_events, model, before, limit)
        return [_to_alias(row) for row in rows]

    async def decide(
        self, request: ports.Request, approval: domain.Approval
    ) -> tuple[domain.Approval, bool]:
        """Add a decision; the lock on the model lets one of several through."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                await _lock_model(connection, approval.key.model)
                version = await _version(connection, approval.key)
                domain.check_decision(version, approval.manifest_digest)
                statement = (
                    sa.insert(approvals)
                    .values(
                        approval_id=approval.approval_id,
                        model=approval.key.model,
                        version=approval.key.version,
                        manifest_digest=approval.manifest_digest,
                        decision=int(approval.decision),
                        approver=approval.approver,
                        comment=approval.comment,
                        decide_time=approval.decide_time,
                    )
                    .returning(approvals.c.sequence)
                )
                return str(await connection.scalar(statement)).encode()

            number, replayed = await _once(connection, request, "DecideApproval", work)
            statement = sa.select(approvals).where(approvals.c.sequence == int(number))
            return _to_approval((await connection.execute(statement)).one()), replayed

    async def list_approvals(
        self, model: str, before: int | None, limit: int
    ) -> list[domain.Approval]:
        """Return decisions, newest first."""
        rows = await self._newest(approvals, model, before, limit)
        return [_to_approval(row) for row in rows]

    async def _newest(
        self, table: sa.Table, model: str, before: int | None, limit: int
    ) -> Sequence[_Row]:
        """Return rows of a model by their sequence, newest first."""
        statement = sa.select(table).where(table.c.model == model)
        if before is not None:
            statement = statement.where(table.c.sequence < before)
        statement = statement.order_by(table.c.sequence.desc()).limit(limit)
        async with engines.transaction(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
            if not rows:
                await _model(connection, model)
            return rows


async def _once(
    connection: AsyncConnection, request: ports.Request, method: str, work: Any
) -> tuple[str, bool]:
    """Do the work once per request id; it returns the key of what it made."""
    fingerprint = idempotency.fingerprint(request.fingerprint)
    key, replayed = await idempotency.once(
        connection, requests, request.request_id, method, fingerprint, work
    )
    return key.decode(), replayed


async def _model(connection: AsyncConnection, name: str) -> domain.Model:
    row = (await connection.execute(sa.select(models).where(models.c.name == name))).first()
    if row is None:
        raise domain.model_not_found(name)
    return _to_model(row)


async def _lock_model(connection: AsyncConnection, name: str) -> None:
    statement = sa.select(models.c.name).where(models.c.name == name).with_for_update()
    if (await connection.execute(statement)).first() is None:
        raise domain.model_not_found(name)


async def _version(connection: AsyncConnection, key: domain.VersionKey) -> domain.ModelVersion:
    statement = _VERSION.where(
        model_versions.c.model == key.model, model_versions.c.version == key.version
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        await _model(connection, key.model)
        raise domain.version_not_found(key)
    return _to_version(row)


async def _check_parents(connection: AsyncConnection, parents: Sequence[domain.VersionKey]) -> None:
    for index, parent in enumerate(parents):
        statement = sa.select(model_versions.c.version).where(
            model_versions.c.model == parent.model, model_versions.c.version == parent.version
        )
        if (await connection.execute(statement)).first() is None:
            raise errors.invalid(
                f"manifest.parents[{index}]",
                f"{parent.model}/{parent.version}",
                "must be a registered version",
            )


async def _alias(
    connection: AsyncConnection, model: str, alias: str, time: int
) -> domain.Alias | None:
    statement = sa.select(alias_events).where(
        alias_events.c.model == model, alias_events.c.alias == alias
    )
    if time:
        statement = statement.where(alias_events.c.valid_from <= time)
    newest = alias_events.c.valid_from.desc(), alias_events.c.sequence.desc()
    row = (await connection.execute(statement.order_by(*newest).limit(1))).first()
    return None if row is None else _to_alias(row)


def _to_model(row: _Row) -> domain.Model:
    return domain.Model(
        row.name, domain.Task(row.task), row.description, row.owner, row.create_time
    )


def _to_version(row: _Row) -> domain.ModelVersion:
    return domain.ModelVersion(
        row.model,
        row.version,
        row.manifest,
        row.manifest_digest,
        domain.ApprovalState(row.state),
        row.create_time,
    )


def _to_alias(row: _Row) -> domain.Alias:
    return domain.Alias(
        row.model, row.alias, row.version, row.valid_from, row.actor, row.reason, row.sequence
    )


def _to_approval(row: _Row) -> domain.Approval:
    return domain.Approval(
        str(row.approval_id),
        domain.VersionKey(row.model, row.version),
        row.manifest_digest,
        domain.ApprovalState(row.decision),
        row.approver,
        row.comment,
        row.decide_time,
        row.sequence,
    )
