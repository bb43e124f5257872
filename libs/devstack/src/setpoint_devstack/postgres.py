"""A real PostgreSQL server on loopback, its data below one folder."""

import asyncio
import dataclasses
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Sequence

from setpoint_devstack import account, binaries, errors, process

SUPERUSER = "setpoint"
START_SECONDS = 60.0
"""Crash recovery after a kill can take a while; a healthy start takes well under a second."""
STOP_SECONDS = 15.0
INIT_SECONDS = 120.0
POLL_SECONDS = 0.02
PROC = pathlib.Path("/proc/self")
STATUS_LINE = 7
READY = "ready"


@dataclasses.dataclass(frozen=True)
class PostgresOptions:
    """How careful and how large the server is."""

    durable: bool = True
    """False gives up crash safety of the machine for speed; only for throw-away data."""
    with_password: bool = True
    """Whether logins need the password kept beside the data, or loopback is trusted."""
    max_connections: int = 100
    shared_buffers: str = "64MB"


class PostgresServer:
    """Starts, watches and stops one PostgreSQL server.

    Args:
        folder: holds `data/`, the password file and the log; made when missing.
        port: port on 127.0.0.1.
        options: durability, access and size.
        log: where the server's output goes; `postgres.log` in the folder by default.
        inherited: descriptors that the guard keeps open until the server has ended.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        port: int,
        options: PostgresOptions | None = None,
        log: pathlib.Path | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.port = port
        self._options = options or PostgresOptions()
        self._log = log or self.folder / "postgres.log"
        self._inherited = tuple(inherited)
        self._process: process.GuardedProcess | None = None

    @property
    def data(self) -> pathlib.Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def is_launched(self) -> bool:
        """Whether there is a process to ask about."""
        return self._process is not None

    @property
    def child(self) -> process.GuardedProcess:
        """The server's process.

        Raises:
            DevstackError: before the first start.
        """
        if self._process is None:
            raise errors.DevstackError("PostgreSQL was not started")
        return self._process

    def url(
        self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None
    ) -> str:
        """Returns the address of a database, `postgresql://…`.

        Args:
            database: name of the database.
            user: who logs in; the superuser by default.
            password: of that user; the superuser's is filled in.
        """
        if password is None and user == SUPERUSER and self._options.with_password:
            password = self._password_file.read_text().strip()
        login = urllib.parse.quote(user, safe="")
        if password is not None:
            login += ":" + urllib.parse.quote(password, safe="")
        return f"postgresql://{login}@127.0.0.1:{self.port}/{urllib.parse.quote(database, safe='')}"

    @property
    def _password_file(self) -> pathlib.Path:
        return self.folder / "password"

    def launch(self) -> None:
        """Makes the data directory when it is missing and starts the server, without waiting.

        Raises:
            DevstackError: if the data belong to another release or the files cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        owner = account.unprivileged(self.folder, binaries.postgres("postgres").parent)
        self._prepare(owner)
        self._clear_stale_pid_file()
        self._process = process.GuardedProcess(
            "postgres",
            [str(binaries.postgres("postgres")), "-D", str(self.data), *self._settings()],
            self._log,
            # Fast shutdown: roll open transactions back instead of waiting for clients to go.
            stop_signal=signal.SIGINT,
            grace_seconds=STOP_SECONDS,
            account=owner,
            folder=pathlib.Path("/"),
            inherited=self._inherited,
        )
        self._process.start()

    def _settings(self) -> list[str]:
        careful = "on" if self._options.durable else "off"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            # TCP alone: socket paths have a length limit that a deep checkout exceeds.
            "unix_socket_directories": "",
            "max_connections": str(self._options.max_connections),
            "shared_buffers": self._options.shared_buffers,
            "fsync": careful,
            "synchronous_commit": careful,
            "full_page_writes": careful,
            # Workers for asynchronous reads would be three idle processes per stack.
            "io_method": "sync",
            # Compiling queries costs more than it saves on data of this size.
            "jit": "off",
            # A line every five minutes that says nothing to someone at a terminal.
            "log_checkpoints": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _prepare(self, owner: process.Account | None) -> None:
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            found, wanted = (
                version_file.read_text().strip(),
                binaries.POSTGRES_FOLDER.removeprefix("pginstall"),
            )
            if found != wanted:
                raise errors.DevstackError(
                    f"{self.data} was written by PostgreSQL {found}, this is {wanted}: move the folder away"
                )
            return
        # Made aside and moved in one step, so that an interrupted start leaves no half-made data.
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if owner is not None:
            os.chown(new, owner.user, owner.group)
        self._initialise(new, owner)
        new.rename(self.data)

    def _initialise(self, data: pathlib.Path, owner: process.Account | None) -> None:
        command = [
            *(str(binaries.postgres("initdb")), "-D", str(data), "-U", SUPERUSER),
            *("--encoding=UTF8", "--no-instructions"),
            # Sorts by code point on every system, whatever locales it has.
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            *(() if self._options.durable else ("--no-sync",)),
        ]
        log = self.folder / "initdb.log"
        if self._options.with_password:
            self._write_password(owner)
            command += ["--auth=scram-sha-256", f"--pwfile={self._password_file}"]
        else:
            command += ["--auth=trust"]
        child = process.GuardedProcess(
            "initdb", command, log, account=owner, folder=pathlib.Path("/")
        )
        child.start()
        if child.join_blocking(INIT_SECONDS) != 0:
            raise errors.DevstackError("\n".join(["initdb failed:", *process.tail(log)]))

    def _write_password(self, owner: process.Account | None) -> None:
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        if owner is not None:
            os.chown(self._password_file, owner.user, owner.group)

    def _clear_stale_pid_file(self) -> None:
        """Deals with what a killed server left: its pid file, or itself still ending.

        PostgreSQL removes a stale file itself unless the number now belongs to another
        process of the same user, which after a reboot or in a container is likely.
        """
        path = self.data / "postmaster.pid"
        try:
            pid = int(path.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if not self._is_our_server(pid):
            path.unlink(missing_ok=True)
            return
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + STOP_SECONDS
        while self._is_our_server(pid):
            if time.monotonic() > deadline:
                raise errors.DevstackError(
                    f"a PostgreSQL server still runs on {self.data} (process {pid})"
                )
            time.sleep(POLL_SECONDS)

    def _is_our_server(self, pid: int) -> bool:
        """Says whether a process is a server on our data, by its command line."""
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except FileNotFoundError:
            # No such process, or a system without /proc.
            command = "" if PROC.is_dir() else _command_line(pid)
        return str(self.data) in command

    def is_ready(self) -> bool:
        """Says whether the server takes connections, by the state it writes for pg_ctl.

        Raises:
            ProcessDiedError: if it ended, with its last log lines.
        """
        code = self.child.poll()
        if code is not None:
            lines = "\n".join(process.tail(self._log))
            raise errors.ProcessDiedError(
                f"PostgreSQL ended ({process.describe_exit(code)}):\n{lines}"
            )
        try:
            lines_of_state = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            len(lines_of_state) > STATUS_LINE
            and lines_of_state[0].strip() == str(self.child.pid)
            and lines_of_state[STATUS_LINE].strip() == READY
        )

    async def start(self, timeout_seconds: float = START_SECONDS) -> None:
        """Starts the server and waits until it takes connections.

        Raises:
            DevstackError: if it ends or is not ready in time.
        """
        await process.in_thread(self.launch)
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            self._check_time(deadline)
            await asyncio.sleep(POLL_SECONDS)

    def start_blocking(self, timeout_seconds: float = START_SECONDS) -> None:
        """Does what `start` does, for callers without an event loop."""
        self.launch()
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            self._check_time(deadline)
            time.sleep(POLL_SECONDS)

    def _check_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise errors.DevstackError(f"PostgreSQL is not ready in time; see {self._log}")

    async def stop(self) -> None:
        """Stops the server; open transactions are rolled back."""
        if self._process is not None:
            await self._process.stop()

    def stop_blocking(self) -> None:
        """Does what `stop` does, for callers without an event loop."""
        if self._process is not None:
            self._process.stop_blocking()


def _command_line(pid: int) -> str:
    """Returns a process's command line where there is no /proc."""
    finished = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return finished.stdout
