"""A real Valkey server on loopback, its data below one folder."""

import asyncio
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Sequence

from setpoint_devstack import binaries, errors, process

START_SECONDS = 30.0
POLL_SECONDS = 0.02
PROBE_SECONDS = 0.5


class ValkeyServer:
    """Starts, watches and stops one Valkey server.

    Args:
        folder: holds the configuration, the password file and the append-only file.
        port: port on 127.0.0.1.
        durable: keep an append-only file, synced every second; else memory alone.
        with_password: whether clients need the password kept in the folder.
        log: where the server's output goes; `valkey.log` in the folder by default.
        inherited: descriptors that the guard keeps open until the server has ended.
        settings: further lines of its configuration.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        port: int,
        *,
        durable: bool = True,
        with_password: bool = True,
        log: pathlib.Path | None = None,
        inherited: Sequence[int] = (),
        settings: Sequence[str] = (),
    ) -> None:
        self.folder = folder.resolve()
        self._extra = tuple(settings)
        self.port = port
        self._durable = durable
        self._with_password = with_password
        self._log = log or self.folder / "valkey.log"
        self._inherited = tuple(inherited)
        self._process: process.GuardedProcess | None = None

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
            raise errors.DevstackError("Valkey was not started")
        return self._process

    @property
    def _password_file(self) -> pathlib.Path:
        return self.folder / "password"

    def url(self, database: int = 0) -> str:
        """Returns the address of a database, `redis://…`."""
        login = f":{self._password_file.read_text().strip()}@" if self._with_password else ""
        return f"redis://{login}127.0.0.1:{self.port}/{database}"

    def launch(self) -> None:
        """Writes the configuration and starts the server, without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "valkey.conf"
        # A file, because arguments (and a password among them) are visible to everyone.
        _write_private(configuration, "\n".join(self._settings()) + "\n")
        self._process = process.GuardedProcess(
            "valkey",
            [str(binaries.valkey()), str(configuration)],
            self._log,
            folder=self.folder,
            inherited=self._inherited,
        )
        self._process.start()

    def _settings(self) -> list[str]:
        settings = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f'dir "{self.folder}"',
            "daemonize no",
            'save ""',
            f"appendonly {'yes' if self._durable else 'no'}",
            "appendfsync everysec",
            # A write cut off by a kill must not keep the server from starting again.
            "aof-load-truncated yes",
            *self._extra,
        ]
        if self._with_password:
            if not self._password_file.exists():
                _write_private(self._password_file, secrets.token_urlsafe(24) + "\n")
            settings.append(f"requirepass {self._password_file.read_text().strip()}")
        return settings

    def is_ready(self) -> bool:
        """Says whether the server answers and has loaded its data.

        Raises:
            ProcessDiedError: if it ended, with its last log lines.
        """
        code = self.child.poll()
        if code is not None:
            lines = "\n".join(process.tail(self._log))
            raise errors.ProcessDiedError(f"Valkey ended ({process.describe_exit(code)}):\n{lines}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), PROBE_SECONDS) as probe:
                probe.sendall(b"PING\r\n")
                answer = probe.recv(64)
        except OSError:
            return False
        # Asking for the password is also an answer of a server that is up and loaded.
        return answer.startswith((b"+PONG", b"-NOAUTH"))

    async def start(self, timeout_seconds: float = START_SECONDS) -> None:
        """Starts the server and waits until it answers.

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
            raise errors.DevstackError(f"Valkey is not ready in time; see {self._log}")

    async def stop(self) -> None:
        """Stops the server; what it keeps is on disk afterwards."""
        if self._process is not None:
            await self._process.stop()

    def stop_blocking(self) -> None:
        """Does what `stop` does, for callers without an event loop."""
        if self._process is not None:
            self._process.stop_blocking()


def _write_private(path: pathlib.Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
