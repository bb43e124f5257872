"""Jobs as people ask for them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from setpoint_batch import ports
from setpoint_batch.domain import urls
from setpoint_batch.domain.job import Job, Spec
from setpoint_runtime import errors, ids, names
from setpoint_runtime.clock import Clock

WATCH_SECONDS = 0.2
"""How often a watched job is looked at."""

INLINE = "rows:"
"""Begins the input of a job whose rows came with the request; their digest follows."""

MAX_COLUMNS = 1_000
MAX_NAME_LENGTH = 256
_PATTERN = "*?["


class Jobs:
    """Starts, shows and cancels jobs."""

    def __init__(
        self,
        store: ports.Store,
        models: ports.Models,
        url_prefixes: Sequence[str],
        wake: Callable[[str], None],
        clock: Clock,
    ) -> None:
        """Take what it works with; `wake` tells a worker of a job that waits or is cancelled."""
        self._store = store
        self._models = models
        self._url_prefixes = url_prefixes
        self._wake = wake
        self._clock = clock

    async def start(
        self, request_id: str, fingerprint: bytes, spec: Spec, rows: bytes, *, rerun: bool
    ) -> tuple[Job, bool, bool]:
        """Start a job; say whether this call began it, and whether it was a replay.

        Raises:
            InvalidArgumentError: A field is wrong.
            PermissionDeniedError: A URL is outside of what is allowed.
            NotFoundError: There is no such model, version or alias.
            FailedPreconditionError: The version is not approved.
            AlreadyExistsError: The job of this name and time asks for something else.
        """
        checked = self._checked(spec, rows)
        version = await self._models.choose(spec.model, spec.version, spec.alias)
        now = self._clock.now_us()
        job = Job(ids.uuid7(), checked, version, spec.event_time or now, now)
        stored, started, replayed = await self._store.start(
            request_id, fingerprint, job, rows, rerun=rerun
        )
        self._wake(stored.job_id)
        return stored, started, replayed

    async def cancel(self, request_id: str, fingerprint: bytes, job_id: str) -> tuple[Job, bool]:
        """Cancel a job; say whether this was a replay. Raises FailedPreconditionError."""
        cancelled = await self._store.cancel(request_id, fingerprint, job_id, self._clock.now_us())
        self._wake(job_id)
        return cancelled

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """Yield a job now and after each change, until it ends."""
        seen = -1
        while True:
            job = await self._store.job(job_id)
            if job.etag != seen:
                seen = job.etag
                yield job
            if job.ended:
                return
            await asyncio.sleep(WATCH_SECONDS)

    def _checked(self, spec: Spec, rows: bytes) -> Spec:
        _check(spec)
        source = (
            f"{INLINE}{hashlib.sha256(rows).hexdigest()}"
            if rows
            else self._url("spec.input.url", spec.input_url)
        )
        target = self._url("spec.output.url", spec.output_url)
        if any(each in target for each in _PATTERN):
            # Where files are removed by name, it would stand for others'.
            raise errors.invalid(
                "spec.output.url", spec.output_url, f"must be one folder, without any of {_PATTERN}"
            )
        if not rows and f"{source}/".startswith(f"{target}/"):
            raise errors.invalid("spec.output.url", spec.output_url, "must not hold the input")
        return replace(spec, input_url=source, output_url=target)

    def _url(self, field: str, url: str) -> str:
        return urls.check_allowed(field, urls.normal(field, url), self._url_prefixes)


def _check(spec: Spec) -> None:
    names.check_name("spec.name", spec.name)
    names.check_name("spec.model", spec.model)
    if spec.alias:
        names.check_name("spec.alias", spec.alias)
    for field, value in (("event_time", spec.event_time), ("version", spec.version)):
        if value < 0:
            raise errors.invalid(f"spec.{field}", value, "must not be negative")
    if len(spec.kept_columns) > MAX_COLUMNS:
        raise errors.invalid(
            "spec.input.kept_columns", len(spec.kept_columns), f"must be at most {MAX_COLUMNS}"
        )
    named = [("event_time_column", spec.event_time_column)]
    for field, name in (*named, *(("kept_columns", name) for name in spec.kept_columns)):
        if len(name) > MAX_NAME_LENGTH or "\0" in name:
            rule = f"must have at most {MAX_NAME_LENGTH} characters, none of them NUL"
            raise errors.invalid(f"spec.input.{field}", name[:80], rule)
    if len(set(spec.kept_columns)) != len(spec.kept_columns):
        raise errors.invalid(
            "spec.input.kept_columns", ", ".join(spec.kept_columns)[:80], "must be named once each"
        )
