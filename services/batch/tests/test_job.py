import pytest

from setpoint_batch import testing
from setpoint_batch.domain import job as jobs
from setpoint_batch.domain.job import State
from setpoint_runtime import errors

LIVE = (State.QUEUED, State.RUNNING, State.CANCELLING)


@pytest.mark.parametrize("state", [*LIVE, State.SUCCEEDED])
def test_again_same(state: State) -> None:
    """The same question about a job that goes on or has succeeded leaves it as it is."""
    found = testing.job(state=state)
    assert jobs.again(found, testing.job(), rerun=False) is None


@pytest.mark.parametrize("state", LIVE)
def test_again_rerun_live(state: State) -> None:
    """A job that goes on is not begun anew."""
    assert jobs.again(testing.job(state=state), testing.job(), rerun=True) is None


@pytest.mark.parametrize("state", [*LIVE, State.SUCCEEDED])
def test_again_other_content(state: State) -> None:
    """Another question under the name and time of a job that stands is refused."""
    found = testing.job(state=state)
    with pytest.raises(errors.AlreadyExistsError) as caught:
        jobs.again(found, testing.job(input_url="file:///other"), rerun=False)
    assert caught.value.reason is errors.Reason.NAME_TAKEN
    assert caught.value.metadata["batch_prediction_id"] == found.job_id


@pytest.mark.parametrize(
    ("state", "rerun"),
    [(State.FAILED, False), (State.CANCELLED, False), (State.SUCCEEDED, True)],
)
def test_again_begins(state: State, *, rerun: bool) -> None:
    """A job that came to nothing, or is asked to run again, is begun under its id, as now asked."""
    found = testing.job(etag=7, attempt=2).end(state, 5, "why", "REASON")
    asked = testing.job(input_url="file:///other")
    begun = jobs.again(found, asked, rerun=rerun)
    assert begun is not None
    assert (begun.job_id, begun.attempt, begun.etag) == (found.job_id, 3, 8)
    assert (begun.state, begun.error, begun.end_time) == (State.QUEUED, "", 0)
    assert begun.spec == asked.spec


def test_cancelled() -> None:
    """What nobody began is cancelled at once, what is at work is stopped first."""
    assert jobs.cancelled(testing.job(), 9).state is State.CANCELLED
    running = testing.job(state=State.RUNNING, start_time=3)
    assert jobs.cancelled(running, 9).state is State.CANCELLING
    with pytest.raises(errors.FailedPreconditionError) as caught:
        jobs.cancelled(running.end(State.SUCCEEDED, 4), 9)
    assert caught.value.reason is errors.Reason.RUN_STATE


def test_progress_adds() -> None:
    """Counts grow by what a part counted."""
    part = jobs.Part(0, "part", rows=10, failed=2, degraded=3, size=1, sha256="")
    found = jobs.Progress(20, partitions=2).add(part).add(part)
    assert found == jobs.Progress(20, 20, 4, 6, 2, 2)
