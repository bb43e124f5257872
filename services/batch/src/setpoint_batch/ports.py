"""What the batch service needs from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from setpoint_batch.domain.job import Job, Part, Version

Json = Mapping[str, Any]


class Store(Protocol):
    """Jobs with their plans and parts; each call is one transaction."""

    async def start(
        self, request_id: str, fingerprint: bytes, job: Job, rows: bytes, *, rerun: bool
    ) -> tuple[Job, bool, bool]:
        """Store a job or find the one of its name and time; say if it was begun, if a replay."""

    async def cancel(
        self, request_id: str, fingerprint: bytes, job_id: str, now: int
    ) -> tuple[Job, bool]:
        """Cancel a job; say whether this was a replay. Raises FailedPreconditionError."""

    async def job(self, job_id: str) -> Job:
        """Return a job. Raises NotFoundError."""

    async def jobs(self, name: str | None, before: str | None, limit: int) -> list[Job]:
        """Return jobs, newest first, those before one."""

    async def save(self, job: Job) -> Job:
        """Store a changed job. Raises AbortedError if somebody else changed it since."""

    async def save_plan(self, job: Job, plan: Json) -> Job:
        """Store a changed job with its plan, without parts. Raises AbortedError."""

    async def save_parts(self, job: Job, added: Part | None, removed: frozenset[int]) -> Job:
        """Store a changed job, a part that is done, and forget others. Raises AbortedError."""

    async def work_of(self, job_id: str) -> tuple[bytes, Json | None, list[Part]]:
        """Return a job's inline rows, its plan and the parts that are done."""

    async def claim(self, holder: str, lease_seconds: float) -> Job | None:
        """Take a job that waits for a worker, or whose worker is gone."""

    async def extend(self, job_id: str, holder: str, lease_seconds: float) -> bool:
        """Keep a claimed job; False if another holds it, or it is to be cancelled."""

    async def forget(self, before_us: int) -> int:
        """Drop what jobs that ended before a time keep for a resume; say how many jobs those were.

        They themselves stay, so that the job of a name and time is still the same one.
        """


class Leftovers(Protocol):
    """Files that make further jobs quicker."""

    def remove_unused(self, since_seconds: float) -> int:
        """Remove what nobody has used since a time, in seconds UTC; say how many files that were."""


class Models(Protocol):
    """The registry."""

    async def choose(self, model: str, version: int, alias: str) -> Version:
        """Return an approved version. Raises NotFoundError, FailedPreconditionError."""

    async def manifest(self, version: Version) -> Json:
        """Return what running a version needs. Raises FailedPreconditionError."""


class Features(Protocol):
    """The feature service."""

    async def definition(self, feature_set: tuple[str, str]) -> Json:
        """Return keys, features and request fields of a feature set. Raises NotFoundError."""


class Rules(Protocol):
    """Validation."""

    async def of_feature_set(self, name: str) -> Json:
        """Return the rules in force for a feature set, with their revision."""


class Executor(Protocol):
    """Does tasks of the partition package somewhere else."""

    @property
    def tasks_at_once(self) -> int:
        """How many it works on at once."""

    async def run(self, task: Json) -> Json:
        """Do a task; cancelling it stops the work where it is.

        Raises:
            SetpointError: The task failed.
            WorkerLostError: Its process died.
        """


class WorkerLostError(Exception):
    """A process died over a task; its last words, which may hold anything, are for the log alone."""

    def __init__(self, how: str, last_words: str = "") -> None:
        """Say how it ended, and what it said."""
        super().__init__(how)
        self.last_words = last_words
