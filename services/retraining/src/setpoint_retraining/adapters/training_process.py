"""Training in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setpoint_runtime import errors

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_TAIL = 2_000
"""Characters of a dead process's last words that go to the log."""


class TrainingProcess:
    """Implements `ports.Training`."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Take the folder for task and result files, and the number of threads to train with."""
        self._folder = folder
        self._environment = {name: str(threads) for name in _THREADS}

    async def train(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do one training; cancelling it kills the process.

        Raises:
            FailedPreconditionError: The training refused.
            InternalError: The process died.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            given, result = Path(name) / "task.json", Path(name) / "result.json"
            given.write_text(json.dumps(task), encoding="utf-8")
            words = await self._run(given, result)
            if not result.exists():
                raise errors.InternalError(
                    errors.Reason.INTERNAL, f"the training process died: {words[-_TAIL:]}"
                )
            answer = json.loads(result.read_text(encoding="utf-8"))
        if "error" in answer:
            raise _error(answer["error"])
        return dict(answer["result"])

    async def _run(self, given: Path, result: Path) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "setpoint_retraining.training", str(given), str(result)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment},
        )
        assert process.stderr is not None  # noqa: S101 - asked for above, for the type checker
        try:
            # Not communicate(): it would close standard input, which tells the process to end.
            words = await process.stderr.read()
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return words.decode(errors="replace")


def _error(told: Mapping[str, str]) -> errors.SetpointError:
    kinds = {
        kind.__name__: kind
        for kind in (errors.FailedPreconditionError, errors.InvalidArgumentError)
    }
    kind = kinds.get(told["kind"], errors.InternalError)
    return kind(errors.Reason(told["reason"]), told["message"])
