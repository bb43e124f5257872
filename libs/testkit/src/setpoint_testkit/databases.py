"""One PostgreSQL server per run, a database per test."""

import asyncio
import itertools
import os
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg

from setpoint_devstack import postgres
from setpoint_testkit import blocking

CONNECT_SECONDS = 30.0


class Databases:
    """Makes and drops databases on a running server.

    Args:
        server: the server, started.
    """

    def __init__(self, server: postgres.PostgresServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}

    def url(self, name: str) -> str:
        """Returns the address of a database as its superuser."""
        return self._server.url(name)

    def create(self, template: str = "template0") -> str:
        """Makes a database as a copy of another one and returns its name."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        blocking.run(self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        return name

    def drop(self, name: str) -> None:
        """Drops a database, cutting off whoever is still connected."""
        blocking.run(self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    def template(self, key: str, prepare: Callable[[str], Coroutine[Any, Any, None]]) -> str:
        """Returns a database to copy from, prepared once per run.

        Copying a migrated database takes a fraction of the time of migrating it again.

        Args:
            key: what the template holds.
            prepare: gets its address and fills it, the first time.
        """
        if key not in self._templates:
            name = self.create()
            blocking.run(prepare(self.url(name)))
            self._templates[key] = name
        return self._templates[key]

    async def _execute(self, statement: str) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await asyncpg.connect(self._server.url("postgres"))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()
