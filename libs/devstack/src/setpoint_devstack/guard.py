"""A supervisor for one command that never outlives the process that started it.

Run as `python -m setpoint_devstack.guard [options] -- command…`. The starter keeps the
write end of a pipe whose read end is `--parent-fd`: when the starter ends in any way,
also by `kill -9`, the kernel closes the pipe and the guard stops its command, first
politely and then for certain. When the guard itself is killed, the kernel kills the
command (Linux). Descendants the command leaves behind are reaped here too.

Only the standard library is used and nothing of Setpoint is imported, so that the guard
can be run by its path with `python -I -S`, which starts in a few milliseconds.
"""

import argparse
import ctypes
import os
import pathlib
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522

POLL_SECONDS = 0.5
"""Backstop for a parent whose pipe was copied into another process; the pipe itself wakes at once."""

LEFTOVER_SECONDS = 3.0
"""How long descendants may take to notice that their parent is gone before they are killed."""

FIRST_INHERITED = 3
HIGHEST_INHERITED = 4096

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EXIT_NOT_STARTED = 127
ON_LINUX = sys.platform == "linux"


def _prctl(option: int, *arguments: int) -> None:
    """Calls prctl(2); without it (other systems) the pipe alone has to do."""
    if not ON_LINUX:
        return
    library = ctypes.CDLL(None, use_errno=True)
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if library.prctl(option, *(ctypes.c_ulong(value) for value in padded)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _set_capabilities(mask: int) -> None:
    """Sets the effective, permitted and inheritable sets of this process to the mask."""
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if library.capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def _become(user: int, group: int, *, keep_search: bool) -> None:
    """Drops root for good, keeping at most the right to walk through closed folders.

    A server that refuses to run as root may have to reach files below a folder only root
    may enter. One inherited capability does that without changing anyone's permissions.
    """
    if keep_search:
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    if not keep_search:
        return
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        try:
            _set_capabilities(1 << capability)
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
        except OSError:
            # Containers often grant only the second, wider one.
            continue
        return


def _run_command(options: argparse.Namespace, guard: int) -> None:
    """Turns this freshly forked process into the command; never returns."""
    try:
        os.setsid()
        for number in (*STOP_SIGNALS, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if options.user is not None:
            user, group = (int(part) for part in options.user.split(":"))
            _become(user, group, keep_search=options.keep_search)
        # Locks that the guard inherited are held by the guard alone.
        os.closerange(FIRST_INHERITED, HIGHEST_INHERITED)
        # After the change of user, which would clear it.
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(EXIT_NOT_STARTED)
        # Becoming the given command is what the guard is for; its caller chose it.
        os.execvp(options.command[0], options.command)  # noqa: S606
    except BaseException as error:  # the forked copy must not run on into the guard's loop
        os.write(2, f"cannot start {options.command[0]}: {error}\n".encode())
        os._exit(EXIT_NOT_STARTED)


class Guard:
    """The loop that waits for the command to end or for a reason to end it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._parent = os.getppid()
        self._child = 0
        self._exit_code: int | None = None
        self._deadline: float | None = None
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        """Starts the command, waits, and returns the exit code to end with."""
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: self._begin_stop())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        guard = os.getpid()
        # Held back over the fork: a request to stop must find the child, and the child
        # must not answer it with the guard's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._child = os.fork()
        if self._child == 0:
            _run_command(self._options, guard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if self._options.status_fd is not None:
            os.write(self._options.status_fd, f"{self._child}\n".encode())
            os.close(self._options.status_fd)
        while self._exit_code is None:
            self._wait()
            self._reap()
        self._end_leftovers()
        return self._exit_code

    def _begin_stop(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._options.grace
            self._signal_child(self._options.stop_signal)

    def _signal_child(self, number: int) -> None:
        if self._exit_code is None and self._child:
            os.kill(self._child, number)

    def _wait(self) -> None:
        watched = [self._wake_read]
        if self._options.parent_fd is not None and self._deadline is None:
            watched.append(self._options.parent_fd)
        readable, _, _ = select.select(watched, [], [], POLL_SECONDS)
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)
        if self._options.parent_fd in readable and not os.read(self._options.parent_fd, 1):
            self._begin_stop()
        if os.getppid() != self._parent:
            self._begin_stop()
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._kill_group()

    def _reap(self) -> bool:
        """Collects ended children; says whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)
                self._exit_code = code if code >= 0 else 128 - code

    def _kill_group(self) -> None:
        try:
            os.killpg(self._child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            # Gone, or (macOS) only zombies are left in the group.
            return

    def _end_leftovers(self) -> None:
        """Ends what the command left behind: politely, then for certain."""
        self._kill_group()
        number = signal.SIGTERM
        deadline = time.monotonic() + LEFTOVER_SECONDS
        signalled: set[int] = set()
        while self._reap():
            if time.monotonic() > deadline:
                number = signal.SIGKILL
                signalled.clear()
            for pid in set(_children()) - signalled:
                # A child cannot be gone before `_reap` has collected it.
                os.kill(pid, number)
                signalled.add(pid)
            time.sleep(0.02)


def _children() -> list[int]:
    """Returns this process's children, adopted ones included (Linux; else none are adopted)."""
    path = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return [int(pid) for pid in path.read_text().split()]
    except OSError:
        return []


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; everything after `--` is the command."""
    parser = argparse.ArgumentParser(prog="setpoint_devstack.guard", description=__doc__)
    parser.add_argument("--parent-fd", type=int, help="read end of the starter's pipe")
    parser.add_argument("--status-fd", type=int, help="where to write the command's process id")
    parser.add_argument("--user", help="UID:GID to run the command as (needs root)")
    parser.add_argument(
        "--keep-search", action="store_true", help="keep the right to enter closed folders"
    )
    parser.add_argument(
        "--stop-signal", type=int, default=signal.SIGTERM, help="polite signal (default: SIGTERM)"
    )
    parser.add_argument(
        "--grace", type=float, default=10.0, help="seconds between polite signal and SIGKILL"
    )
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


def main() -> None:
    """Entry point."""
    sys.exit(Guard(parse(sys.argv[1:])).run())


if __name__ == "__main__":
    main()
