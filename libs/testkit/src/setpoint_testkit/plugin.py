"""The fixtures; pytest loads this module by its entry point.

It is loaded for every run of every member, so what a fixture needs is imported when the fixture is
used: tests that touch no database do not wait for its libraries, nor break with them.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from setpoint_testkit import network, workspace

if TYPE_CHECKING:
    from setpoint_devstack import postgres as postgres_server
    from setpoint_devstack import valkey as valkey_server
    from setpoint_testkit import clusters, serving, stacks
    from setpoint_testkit import databases as database_pool

_GUARD = network.NetworkGuard()
MAX_CONNECTIONS = 200


def pytest_configure(config: pytest.Config) -> None:
    """Switches the network guard on for the whole run."""
    del config
    _GUARD.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Switches the network guard off again."""
    del config
    _GUARD.disable()


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Iterator[pathlib.Path]:
    """A folder of this test run, below `var/testkit`."""
    with workspace.run_folder(pytestconfig.rootpath) as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(run_folder: pathlib.Path) -> "Iterator[postgres_server.PostgresServer]":
    """A real PostgreSQL server, started at its first use in the run."""
    from setpoint_devstack import ports, postgres

    options = postgres.PostgresOptions(
        durable=False, with_password=False, max_connections=MAX_CONNECTIONS
    )
    server = postgres.PostgresServer(run_folder / "postgres", ports.free_port(), options)
    try:
        server.start_blocking()
        yield server
    finally:
        server.stop_blocking()


@pytest.fixture(scope="session")
def databases(postgres: "postgres_server.PostgresServer") -> "database_pool.Databases":
    """Makes databases on the run's server; for tests that need more than one."""
    from setpoint_testkit import databases

    return databases.Databases(postgres)


@pytest.fixture
def database_url(databases: "database_pool.Databases") -> Iterator[str]:
    """The address of an empty database of this test alone."""
    name = databases.create()
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
def migrated_url(databases: "database_pool.Databases") -> Iterator[Callable[[str], str]]:
    """Gives, for the name of a service, a database with its schema at the newest version.

    The migrations run once per test run; each call copies the result, which is much quicker.
    """
    from setpoint_db import migrate

    made: list[str] = []

    def make(service: str) -> str:
        async def prepare(url: str) -> None:
            await migrate.upgrade(url, schema=service, package=f"setpoint_{service}")

        made.append(databases.create(databases.template(service, prepare)))
        return databases.url(made[-1])

    yield make
    for name in made:
        databases.drop(name)


@pytest.fixture(scope="session")
def valkey(run_folder: pathlib.Path) -> "Iterator[valkey_server.ValkeyServer]":
    """A real Valkey server, started at its first use in the run."""
    from setpoint_devstack import ports, valkey

    server = valkey.ValkeyServer(
        run_folder / "valkey", ports.free_port(), durable=False, with_password=False
    )
    try:
        server.start_blocking()
        yield server
    finally:
        server.stop_blocking()


@pytest.fixture
def valkey_url(valkey: "valkey_server.ValkeyServer") -> str:
    """The address of a Valkey database that is empty when the test begins."""
    import redis

    with redis.Redis.from_url(valkey.url()) as client:
        client.flushall()
    return valkey.url()


@pytest.fixture(scope="session")
def running_valkey_cluster(run_folder: pathlib.Path) -> "Iterator[clusters.ValkeyCluster]":
    """A real Valkey cluster of three servers, started at its first use in the run."""
    from setpoint_testkit import clusters

    cluster = clusters.ValkeyCluster(run_folder / "valkey-cluster")
    try:
        cluster.start_blocking()
        yield cluster
    finally:
        cluster.stop_blocking()


@pytest.fixture
def valkey_cluster(
    running_valkey_cluster: "clusters.ValkeyCluster",
) -> "clusters.ValkeyCluster":
    """A Valkey cluster that is empty when the test begins."""
    running_valkey_cluster.flush()
    return running_valkey_cluster


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that returns another free port at each call."""
    from setpoint_devstack import ports

    return ports.free_port


@pytest.fixture
def serve() -> "serving.Serve":
    """Runs a service in this process, for the length of an `async with` block."""
    from setpoint_testkit import serving

    return serving.serve


@pytest.fixture(scope="session")
def make_stack(run_folder: pathlib.Path) -> "stacks.MakeStack":
    """Makes whole stacks of child processes, each for the length of an `async with` block."""
    from setpoint_testkit import stacks

    return stacks.Stacks(run_folder)
