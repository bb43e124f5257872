from setpoint_retraining import testing
from setpoint_retraining.domain import run as runs
from setpoint_retraining.domain.run import RunState


def test_next_step_goes_through_all() -> None:
    """A worker's steps come one after the other, each after the one before is done."""
    run = testing.run()
    done = []
    while (name := run.next_step()) is not None:
        run = run.begin(name, 1).finish(name, 2, "done", {})
        done.append(name)
    assert tuple(done) == runs.WORK_STEPS
    assert all(step.done for step in run.steps)


def test_begin_again_after_crash() -> None:
    """A step that was begun and not finished is begun anew, with a new time and no second entry."""
    run = testing.run().begin("snapshot", 1)
    assert run.next_step() == "snapshot"
    again = run.begin("snapshot", 5)
    assert [(step.name, step.start_time) for step in again.steps] == [("snapshot", 5)]
    assert again.state is RunState.RUNNING


def test_output_of_unfinished_step() -> None:
    """Only a finished step left something for later ones."""
    run = testing.run().begin("snapshot", 1)
    assert run.output("snapshot") == {}
    assert run.finish("snapshot", 2, "", {"rows": 3}).output("snapshot") == {"rows": 3}
    assert run.output("train") == {}


def test_request_id_stable() -> None:
    """An action has one id per run, however often it is tried."""
    first, second = testing.run(), testing.run()
    assert first.request_id("a") == first.begin("train", 1).request_id("a")
    assert first.request_id("a") != first.request_id("b")
    assert first.request_id("a") != second.request_id("a")


def test_end_notes_reason() -> None:
    """An ended run says when and why, and nothing more happens to it."""
    run = testing.run().end(RunState.FAILED, 7, "too few", "NOT_ENOUGH_DATA")
    assert run.ended
    assert (run.end_time, run.error, run.error_reason) == (7, "too few", "NOT_ENOUGH_DATA")
    assert not testing.rolling_out().ended
