"""One child process under the guard: start, log to a file, signal, stop."""

import asyncio
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from setpoint_devstack import errors, guard

POLL_SECONDS = 0.05
KILL_MARGIN_SECONDS = 5.0
"""What the guard may need beyond the grace: killing, and waiting for leftovers."""
SIGNAL_BASE = 128
TAIL_LINES = 20
TAIL_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Account:
    """The user a process runs as when the starter is root."""

    user: int
    group: int
    keep_search: bool
    """Whether files of the process lie below folders that only root may enter."""


def describe_exit(code: int) -> str:
    """Says in words how a process ended; codes above 128 stand for signals."""
    if code > SIGNAL_BASE:
        try:
            return f"killed by {signal.Signals(code - SIGNAL_BASE).name}"
        except ValueError:
            pass
    return f"exit code {code}"


def tail(path: pathlib.Path, lines: int = TAIL_LINES) -> list[str]:
    """Returns the last lines of a log file; a missing file has none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]


async def in_thread(function: Callable[[], None]) -> None:
    """Runs something that blocks in a thread; a cancellation waits until it has ended.

    Otherwise the thread would go on by itself, and start what its canceller has just cleaned up.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


class GuardedProcess:
    """A child process that ends when this process ends, however that happens.

    Args:
        name: how messages call it.
        command: program and arguments.
        log: file that receives stdout and stderr, appended.
        environment: the whole environment, or None for this process's own.
        stop_signal: the polite signal.
        grace_seconds: how long the process may take after it.
        account: the user to run as; only for root.
        folder: working directory.
        inherited: descriptors that the guard, not the command, keeps open until both have ended.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: pathlib.Path,
        *,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 10.0,
        account: Account | None = None,
        folder: pathlib.Path | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = environment
        self._stop_signal = stop_signal
        self._grace_seconds = grace_seconds
        self._account = account
        self._folder = folder
        self._inherited = tuple(inherited)
        self._guard: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """The process id of the command itself, not of its guard.

        Raises:
            DevstackError: if the process was never started.
        """
        if self._pid is None:
            raise errors.DevstackError(f"{self.name} was not started")
        return self._pid

    @property
    def guard_pid(self) -> int:
        """The process id of the guard.

        Raises:
            DevstackError: if the process was never started.
        """
        if self._guard is None:
            raise errors.DevstackError(f"{self.name} was not started")
        return self._guard.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._guard is not None and self.poll() is None

    def start(self) -> None:
        """Starts the command and returns when it has a process id.

        Raises:
            DevstackError: if it runs already or cannot be started.
        """
        if self.running:
            raise errors.DevstackError(f"{self.name} runs already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        parent_read, parent_write = os.pipe()
        status_read, status_write = os.pipe()
        try:
            with self.log.open("ab") as log:
                self._guard = subprocess.Popen(
                    self._guard_command(parent_read, status_write),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=None if self._environment is None else dict(self._environment),
                    cwd=self._folder,
                    pass_fds=(parent_read, status_write, *self._inherited),
                    # Keeps Ctrl-C at the terminal for the starter, which stops things in order.
                    start_new_session=True,
                )
        finally:
            os.close(parent_read)
            os.close(status_write)
            self._close_lifeline()
            self._lifeline = parent_write
        with os.fdopen(status_read) as status:
            line = status.readline()
        if not line:
            raise errors.DevstackError(f"{self.name} could not be started; see {self.log}")
        self._pid = int(line)

    def _guard_command(self, parent_fd: int, status_fd: int) -> list[str]:
        options = [
            f"--parent-fd={parent_fd}",
            f"--status-fd={status_fd}",
            f"--stop-signal={int(self._stop_signal)}",
            f"--grace={self._grace_seconds}",
        ]
        if self._account is not None:
            options.append(f"--user={self._account.user}:{self._account.group}")
            if self._account.keep_search:
                options.append("--keep-search")
        return [sys.executable, "-I", "-S", guard.__file__, *options, "--", *self._command]

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs or was never started."""
        if self._guard is None:
            return None
        code = self._guard.poll()
        if code is None:
            return None
        self._close_lifeline()
        return SIGNAL_BASE - code if code < 0 else code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the command; one that has ended is left alone."""
        if self.running:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                # It ended a moment ago; its guard is about to say so.
                return

    def request_stop(self) -> None:
        """Asks the guard to end the command: politely, then for certain."""
        if self._guard is not None and self.running:
            self._guard.terminate()

    async def wait(self, timeout_seconds: float) -> int:
        """Waits for the end and returns the exit code.

        Raises:
            DevstackError: if the process still runs after that time.
        """
        deadline = time.monotonic() + timeout_seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise errors.DevstackError(f"{self.name} did not end within {timeout_seconds} s")
            await asyncio.sleep(POLL_SECONDS)
        return code

    async def stop(self) -> int | None:
        """Stops the command and everything it started; returns its exit code."""
        if self._guard is None:
            return None
        self.request_stop()
        try:
            return await self.wait(self._grace_seconds + KILL_MARGIN_SECONDS)
        except errors.DevstackError:
            self._guard.kill()
            return await self.wait(KILL_MARGIN_SECONDS)

    def join_blocking(self, timeout_seconds: float) -> int:
        """Waits for a command that ends by itself and returns its exit code.

        Raises:
            DevstackError: if it still runs after that time; it is stopped then.
        """
        if self._guard is None:
            raise errors.DevstackError(f"{self.name} was not started")
        try:
            self._guard.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.stop_blocking()
            raise errors.DevstackError(
                f"{self.name} did not end within {timeout_seconds} s"
            ) from None
        code = self.poll()
        return guard.EXIT_NOT_STARTED if code is None else code

    def stop_blocking(self) -> int | None:
        """Does what `stop` does, for callers without an event loop."""
        if self._guard is None:
            return None
        self.request_stop()
        try:
            self._guard.wait(self._grace_seconds + KILL_MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait(KILL_MARGIN_SECONDS)
        return self.poll()
