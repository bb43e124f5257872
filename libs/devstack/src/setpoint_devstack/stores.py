"""PostgreSQL and Valkey of a stack, with a schema and a login of its own for each service."""

import asyncio
import dataclasses
import pathlib
import secrets
from collections.abc import Callable, Sequence

import asyncpg
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_db import provision
from setpoint_devstack import catalogue, errors, ports, postgres, process, valkey

DATABASE = "setpoint"
POSTGRES = "postgres"
VALKEY = "valkey"
POSTGRES_PORT = 7432
VALKEY_PORT = 7479
CONNECT_SECONDS = 30.0

Say = Callable[[str, str], None]
"""Tells the person at the terminal something: about what, and the text."""


@dataclasses.dataclass(frozen=True)
class StorePorts:
    """Where the stores listen; None means the default port, or a free one if that is taken."""

    postgres: int | None = None
    valkey: int | None = None


class Stores:
    """The data stores that the given services need.

    Args:
        folder: the stack's folder.
        services: the services to make schemas and logins for.
        logs: folder of the log files.
        store_ports: fixed ports, where wanted.
        use_default_ports: whether to prefer the default ports to any free ones.
        say: gets messages for people.
        inherited: descriptors that the guards keep open.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        services: Sequence[catalogue.Service],
        logs: pathlib.Path,
        *,
        say: Say,
        store_ports: StorePorts | None = None,
        use_default_ports: bool = True,
        inherited: Sequence[int] = (),
    ) -> None:
        self._folder = folder
        self._services = services
        self._logs = logs
        self._say = say
        self._ports = store_ports or StorePorts()
        self._use_default_ports = use_default_ports
        self._inherited = tuple(inherited)
        self._passwords = {service.schema: secrets.token_urlsafe(24) for service in services}
        self.postgres: postgres.PostgresServer | None = None
        self.valkey: valkey.ValkeyServer | None = None

    @property
    def addresses(self) -> dict[str, str]:
        """Where the stores listen, those that were started."""
        found = {POSTGRES: self.postgres, VALKEY: self.valkey}
        return {n: f"{ports.LOOPBACK}:{s.port}" for n, s in found.items() if s is not None}

    @property
    def children(self) -> dict[str, process.GuardedProcess]:
        """The processes, by name."""
        found = {POSTGRES: self.postgres, VALKEY: self.valkey}
        return {n: s.child for n, s in found.items() if s is not None and s.is_launched}

    async def start(self) -> None:
        """Starts what the services need, and makes their schemas and logins.

        Raises:
            DevstackError: if a store does not come up.
        """
        starts = []
        if any(service.database for service in self._services):
            starts.append(self._start_postgres())
        if any(service.valkey for service in self._services):
            starts.append(self._start_valkey())
        # Both are told to stop by `stop` if one fails; waiting for both leaves none half started.
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _port(self, name: str, fixed: int | None, default: int) -> int:
        if fixed is not None:
            if not ports.is_free(fixed):
                raise errors.DevstackError(f"port {fixed}, wanted for {name}, is taken")
            return fixed
        if not self._use_default_ports:
            return ports.free_port()
        port = ports.prefer(default)
        if port != default:
            self._say(name, f"port {default} is taken; {name} listens on {port}")
        return port

    async def _start_postgres(self) -> None:
        self.postgres = postgres.PostgresServer(
            self._folder / POSTGRES,
            self._port(POSTGRES, self._ports.postgres, POSTGRES_PORT),
            log=self._logs / f"{POSTGRES}.log",
            inherited=self._inherited,
        )
        await self.postgres.start()
        await self._provision(self.postgres)
        self._say(POSTGRES, f"ready on {self.addresses[POSTGRES]}")

    async def _start_valkey(self) -> None:
        self.valkey = valkey.ValkeyServer(
            self._folder / VALKEY,
            self._port(VALKEY, self._ports.valkey, VALKEY_PORT),
            log=self._logs / f"{VALKEY}.log",
            inherited=self._inherited,
        )
        await self.valkey.start()
        self._say(VALKEY, f"ready on {self.addresses[VALKEY]}")

    async def _provision(self, server: postgres.PostgresServer) -> None:
        """Makes the database, and per service a role with a new password that owns its schema."""
        await _create_database(server.url())
        engine = sqlalchemy_asyncio.create_async_engine(
            engines.database_url(server.url(DATABASE)),
            connect_args={"timeout": CONNECT_SECONDS, "command_timeout": CONNECT_SECONDS},
        )
        try:
            async with engine.begin() as connection:
                for service in self._services:
                    if service.database:
                        await provision.create_owner(
                            connection,
                            service.schema,
                            service.role,
                            self._passwords[service.schema],
                        )
        finally:
            await engine.dispose()

    def urls(self, service: catalogue.Service) -> dict[str, str]:
        """Returns the addresses of the stores that a service needs, with its own login."""
        found = {}
        if service.database and self.postgres is not None:
            found["DATABASE_URL"] = self.postgres.url(
                DATABASE, service.role, self._passwords[service.schema]
            )
        if service.valkey and self.valkey is not None:
            found["VALKEY_URL"] = self.valkey.url()
        return found

    async def restart(self, name: str) -> None:
        """Starts a store again after it was stopped or killed, on the same port.

        Raises:
            DevstackError: if it does not come up.
        """
        server = {POSTGRES: self.postgres, VALKEY: self.valkey}[name]
        if server is None:
            raise errors.DevstackError(f"{name} is not part of this stack")
        await server.stop()
        await server.start()

    async def stop(self) -> None:
        """Stops the stores."""
        servers = [server for server in (self.postgres, self.valkey) if server is not None]
        await asyncio.gather(*(server.stop() for server in servers))
        for server in servers:
            ports.release(server.port)


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    try:
        query = "SELECT 1 FROM pg_database WHERE datname = $1"
        if await connection.fetchval(query, DATABASE) is None:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
            # Otherwise every role may connect to every database and look at its catalogue.
            await connection.execute(f'REVOKE ALL ON DATABASE "{DATABASE}" FROM PUBLIC')
    finally:
        await connection.close()
