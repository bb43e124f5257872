"""A job's states, and what a new request makes of a job that is there."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

from setpoint_runtime import errors


class State(enum.IntEnum):
    """Where a job stands; the numbers are those of the contract."""

    QUEUED = 1
    RUNNING = 2
    CANCELLING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Format(enum.IntEnum):
    """Formats of tables in files; the numbers are those of the contract."""

    UNSPECIFIED = 0
    PARQUET = 1
    CSV = 2
    ARROW = 3


@dataclass(frozen=True, slots=True)
class Spec:
    """What is asked for."""

    name: str
    event_time: int
    """Microseconds UTC; 0 is the time of the start."""
    model: str
    input_url: str
    output_url: str
    version: int = 0
    """0 where an alias is followed."""
    alias: str = ""
    input_format: Format = Format.UNSPECIFIED
    output_format: Format = Format.PARQUET
    event_time_column: str = ""
    kept_columns: tuple[str, ...] = ()
    with_inputs: bool = False


@dataclass(frozen=True, slots=True)
class Version:
    """The version that answers."""

    model: str
    version: int
    manifest_digest: str
    feature_set: tuple[str, str]
    """Name and version; both empty without one."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts; `rows` is None until the input has been looked through."""

    rows: int | None = None
    rows_done: int = 0
    rows_failed: int = 0
    rows_degraded: int = 0
    partitions: int = 0
    partitions_done: int = 0

    def add(self, part: Part) -> Progress:
        """Returns the counts with one more partition."""
        return replace(
            self,
            rows_done=self.rows_done + part.rows,
            rows_failed=self.rows_failed + part.failed,
            rows_degraded=self.rows_degraded + part.degraded,
            partitions_done=self.partitions_done + 1,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one partition: a file that is on disk, and counts."""

    number: int
    name: str
    rows: int
    failed: int
    degraded: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Job:
    """One batch prediction. Times are microseconds UTC."""

    job_id: str
    spec: Spec
    version: Version
    event_time: int
    create_time: int
    state: State = State.QUEUED
    attempt: int = 1
    progress: Progress = field(default_factory=Progress)
    manifest_url: str = ""
    error: str = ""
    error_reason: str = ""
    start_time: int = 0
    end_time: int = 0
    etag: int = 0
    """Grows with each change; a change is based on one."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    def end(self, state: State, now: int, error: str = "", reason: str = "") -> Job:
        """Ends the job."""
        return replace(self, state=state, end_time=now, error=error, error_reason=reason)


def again(found: Job, asked: Job, *, rerun: bool) -> Job | None:
    """Returns what a request makes of the job of its name and time; None leaves it as it is.

    Raises:
        AlreadyExistsError: NAME_TAKEN, if the job asks for something else.
    """
    over = found.state in (State.FAILED, State.CANCELLED)
    if not over and not (rerun and found.ended):
        if found.spec != asked.spec:
            raise errors.AlreadyExistsError(
                errors.Reason.NAME_TAKEN,
                f"spec: the job {asked.spec.name!r} of this event time is {found.state.name} and asks"
                f" for something else; choose another name, or let it end and ask to run it again",
                metadata={"batch_prediction_id": found.job_id},
            )
        return None
    return replace(asked, job_id=found.job_id, attempt=found.attempt + 1, etag=found.etag + 1)


def cancelled(job: Job, now: int) -> Job:
    """Returns a job that is being cancelled, or is already when nobody has begun it.

    Raises:
        FailedPreconditionError: RUN_STATE, if it has ended.
    """
    if job.ended:
        raise errors.FailedPreconditionError(
            errors.Reason.RUN_STATE, f"batch prediction {job.job_id} has ended: {job.state.name}"
        )
    changed = replace(job, etag=job.etag + 1)
    if job.state is State.QUEUED and not job.start_time:
        return changed.end(State.CANCELLED, now)
    return replace(changed, state=State.CANCELLING)
