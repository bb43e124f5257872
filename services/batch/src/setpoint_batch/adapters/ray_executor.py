"""Tasks on a Ray cluster, for more than one machine. Needs `setpoint-batch[ray]`."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from setpoint_batch import ports
from setpoint_batch.partition import results


class RayExecutor:
    """Implements `ports.Executor`.

    The cluster's machines have this package, and reach files and services by the same names.
    """

    def __init__(self, address: str, tasks_at_once: int, around: Mapping[str, Any]) -> None:
        """Take the address of a cluster, and what tasks are told of their surroundings."""
        self._address = address
        self._around = dict(around)
        self._ray: Any = None
        self._work: Any = None
        self.tasks_at_once = tasks_at_once

    async def __aenter__(self) -> Self:
        """Connect."""
        self._ray = importlib.import_module("ray")
        await asyncio.to_thread(
            self._ray.init,
            address=self._address,
            ignore_reinit_error=True,
            log_to_driver=False,
            configure_logging=False,
        )
        # A process that dies over a task is this service's to judge.
        self._work = self._ray.remote(num_cpus=1, max_retries=0)(_work)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await asyncio.to_thread(self._ray.shutdown)

    async def run(self, task: ports.Json) -> ports.Json:
        """Do a task; cancelling it kills the process that is at it."""
        reference = self._work.remote({**task, "around": self._around})
        try:
            answer = await asyncio.wrap_future(reference.future())
        except asyncio.CancelledError:
            self._ray.cancel(reference, force=True)
            raise
        except self._ray.exceptions.RayError as error:
            lost = f"Ray lost it ({type(error).__name__})"
            raise ports.WorkerLostError(lost, str(error)) from error
        return results.result_of(answer)


def _work(task: Mapping[str, Any]) -> dict[str, Any]:
    """Does a task, on a machine of the cluster."""
    from setpoint_batch.partition import tasks

    return tasks.run(task)
