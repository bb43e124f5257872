"""Owned background tasks: none is lost, none dies in silence, none outlives its owner."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")


class TaskOwner:
    """Keeps background tasks for as long as the `async with` block lasts.

    A task that raises is a defect of the process, not of one request: it is logged, `failed` is
    set and `on_failure` is called, so that the process can stop and be started again. A task that
    returns has done its work. Leaving the block cancels what still runs and waits for it.

    Tasks see the context variables of the place where the owner was made, never those of a request
    that happened to start them: a request's deadline and trace are not theirs.
    """

    def __init__(self, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        """Prepare an owner; `on_failure` gets the name of a task that died and its exception."""
        self.failed = asyncio.Event()
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._context = contextvars.copy_context()

    @property
    def names(self) -> list[str]:
        """The names of the tasks that run now, sorted."""
        return sorted(task.get_name() for task in self._tasks)

    def start(self, name: str, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run a coroutine as a task of this owner.

        Args:
            name: What the task works on, as logs shall show it.
            coroutine: The work.

        Raises:
            RuntimeError: The owner is closed already; the coroutine is closed unstarted.
        """
        if self._is_closed:
            coroutine.close()
            raise RuntimeError(f"task {name!r} started on a closed owner")
        task = asyncio.get_running_loop().create_task(
            coroutine, name=name, context=self._context.copy()
        )
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel all tasks and wait for their end; a second call waits as well."""
        self._is_closed = True
        while self._tasks:
            # Cleaning up may start nothing new, but a task may take a cancellation to end a shield.
            pending = tuple(self._tasks)
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)
            # Done callbacks run on the next turn of the loop.
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        """Return the owner."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel all tasks and wait for their end."""
        await self.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        _LOGGER.error("background task %s died", task.get_name(), exc_info=error)
        self.failed.set()
        if self._on_failure is not None:
            self._on_failure(task.get_name(), error)
