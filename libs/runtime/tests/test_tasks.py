import asyncio
import contextvars
import logging

import pytest

from setpoint_runtime import tasks

_REQUEST = contextvars.ContextVar("request", default="none")


async def _forever() -> None:
    await asyncio.Event().wait()


async def _fail() -> None:
    raise RuntimeError("out of order")


async def test_start_returns_named_task_with_result() -> None:
    """A task runs under its name and gives its result to whoever waits for it."""

    async def answer() -> int:
        return 42

    async with tasks.TaskOwner() as owner:
        task = owner.start("answer", answer())
        assert task.get_name() == "answer"
        assert await task == 42
        assert not owner.failed.is_set()


async def test_exit_cancels_and_awaits() -> None:
    """After the block nothing of it runs, clean-up of the tasks included."""
    steps: list[str] = []

    async def work() -> None:
        try:
            await _forever()
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned")

    async with tasks.TaskOwner() as owner:
        task = owner.start("work", work())
        await asyncio.sleep(0)
        assert owner.names == ["work"]

    assert steps == ["cleaned"]
    assert task.cancelled()
    assert owner.names == []
    assert not owner.failed.is_set()


async def test_failure_is_logged_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A task that dies is in the log with its traceback, and the process is told to stop."""
    told: list[tuple[str, str]] = []
    with caplog.at_level(logging.ERROR):
        async with tasks.TaskOwner(lambda name, error: told.append((name, str(error)))) as owner:
            _ = owner.start("shipper", _fail())
            other = owner.start("other", _forever())
            async with asyncio.timeout(20):
                await owner.failed.wait()
            assert not other.done()

    assert told == [("shipper", "out of order")]
    assert "shipper died" in caplog.text
    assert "RuntimeError: out of order" in caplog.text


async def test_cancelled_task_is_no_failure() -> None:
    """Cancelling a task on purpose does not stop the process."""
    async with tasks.TaskOwner() as owner:
        task = owner.start("work", _forever())
        task.cancel()
        await asyncio.wait((task,))
        await asyncio.sleep(0)
        assert not owner.failed.is_set()


async def test_failure_during_clean_up_is_reported() -> None:
    """A task that fails while it is being cancelled is not silent either."""

    async def work() -> None:
        try:
            await _forever()
        except asyncio.CancelledError:
            raise ValueError("could not clean up") from None

    async with tasks.TaskOwner() as owner:
        _ = owner.start("work", work())
        await asyncio.sleep(0)

    assert owner.failed.is_set()


async def test_start_on_closed_owner_is_refused() -> None:
    """Nothing can be started that nobody would wait for."""
    async with tasks.TaskOwner() as owner:
        pass

    with pytest.raises(RuntimeError, match="late"):
        _ = owner.start("late", _forever())


async def test_task_keeps_reference() -> None:
    """A task whose handle is dropped is not collected."""
    import gc

    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async with tasks.TaskOwner() as owner:
        _ = owner.start("work", work())
        gc.collect()
        async with asyncio.timeout(20):
            await done.wait()


async def test_task_does_not_inherit_request() -> None:
    """Context of the request that started a task is not the task's."""

    async def look() -> str:
        return _REQUEST.get()

    async with tasks.TaskOwner() as owner:
        token = _REQUEST.set("first request")
        try:
            assert await owner.start("look", look()) == "none"
        finally:
            _REQUEST.reset(token)


async def test_exception_of_block_passes_through() -> None:
    """The owner ends its tasks also when its block fails, and hides nothing."""
    with pytest.raises(ValueError, match="block"):
        async with tasks.TaskOwner() as owner:
            task = owner.start("work", _forever())
            raise ValueError("block")

    assert task.cancelled()
