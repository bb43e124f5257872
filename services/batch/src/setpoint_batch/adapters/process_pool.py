"""Tasks in processes of this machine: started when they are needed, ended when they are not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, Self

from setpoint_batch import ports
from setpoint_batch.partition import results

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TAIL = 2_000
"""Bytes of a dead process's last words that are told."""

_MAX_ANSWER_BYTES = 64 * 1024 * 1024


class ProcessPool:
    """Implements `ports.Executor`."""

    def __init__(
        self, processes: int, niceness: int, idle_seconds: float, around: Mapping[str, Any]
    ) -> None:
        """Take limits, and what tasks are told of their surroundings."""
        self._free = asyncio.Semaphore(processes)
        self._niceness = niceness
        self._idle_seconds = idle_seconds
        self._around = dict(around)
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._timers: set[asyncio.Task[None]] = set()
        self.tasks_at_once = processes

    async def __aenter__(self) -> Self:
        """Return the pool."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process."""
        self._idle.clear()
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await asyncio.gather(*(each.end() for each in self._all))

    async def run(self, task: ports.Json) -> ports.Json:
        """Do a task; cancelling it kills the process that is at it."""
        async with self._free:
            process = self._idle.pop() if self._idle else await self._start()
            try:
                answer = await process.ask({**task, "around": self._around})
            except BaseException:
                # In the middle of a task it is good for nothing else.
                self._all.discard(process)
                await asyncio.shield(process.end())
                raise
            self._idle.append(process)
            timer = asyncio.create_task(self._end_idle(process, process.tasks))
            self._timers.add(timer)
            timer.add_done_callback(self._timers.discard)
        return results.result_of(answer)

    async def _start(self) -> _Process:
        starting = asyncio.ensure_future(_Process.start(self._niceness))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Half a start cannot be stopped, and nobody else would know of the process.
            await (await starting).end()
            raise
        self._all.add(process)
        return process

    async def _end_idle(self, process: _Process, tasks: int) -> None:
        """End a process that got no further task for a while."""
        await asyncio.sleep(self._idle_seconds)
        if process in self._idle and process.tasks == tasks:
            self._idle.remove(process)
            self._all.discard(process)
            await process.end()


class _Process:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process, words: IO[bytes]) -> None:
        self._process = process
        self._words = words
        self.tasks = 0
        """How many it has been asked for."""

    @classmethod
    async def start(cls, niceness: int) -> Self:
        """Start a process."""
        words = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "setpoint_batch.partition", str(niceness)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=words,
            limit=_MAX_ANSWER_BYTES,
            # Parallelism comes from partitions.
            env={**os.environ, **dict.fromkeys(_THREADS, "1")},
        )
        return cls(process, words)

    async def ask(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a task. Raises WorkerLostError."""
        stdin, stdout = self._process.stdin, self._process.stdout
        self.tasks += 1
        assert stdin is not None  # noqa: S101 - asked for above, for the type checker
        assert stdout is not None  # noqa: S101 - as well
        line = b""
        try:
            stdin.write(json.dumps(task).encode() + b"\n")
            await stdin.drain()
            line = await stdout.readline()
        except ConnectionError:
            pass
        if not line.endswith(b"\n"):
            code = await self._process.wait()
            raise ports.WorkerLostError(f"a worker process ended with {code}", self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def end(self) -> None:
        """End now."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._words.close()

    def _last_words(self) -> str:
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - _TAIL))
        return self._words.read().decode(errors="replace").strip()
