"""A real Valkey cluster of three servers on loopback."""

import pathlib
import time

import redis

from setpoint_devstack import ports, valkey

SERVERS = 3
SLOTS = 16_384
READY_SECONDS = 30.0
POLL_SECONDS = 0.02


class ValkeyCluster:
    """Three servers that divide the hash slots evenly, without replicas.

    Args:
        folder: holds the servers' folders.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        # By default the bus listens 10,000 ports above, which may not be free.
        self._buses = [ports.free_port() for _ in range(SERVERS)]
        self.servers = [
            valkey.ValkeyServer(
                folder / f"valkey-{number}",
                ports.free_port(),
                durable=False,
                with_password=False,
                settings=(
                    "cluster-enabled yes",
                    f"cluster-port {bus}",
                    # What one server holds stays readable when another one is down.
                    "cluster-require-full-coverage no",
                ),
            )
            for number, bus in enumerate(self._buses)
        ]

    @property
    def url(self) -> str:
        """The address of the cluster, `redis+cluster://…`."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{each.port}" for each in self.servers)

    def start_blocking(self) -> None:
        """Starts the servers, makes them a cluster and waits until all of them know it.

        Raises:
            TimeoutError: They do not find each other.
        """
        for server in self.servers:
            server.start_blocking()
        bounds = [SLOTS * number // SERVERS for number in range(SERVERS + 1)]
        for number, server in enumerate(self.servers):
            with self.client(server) as client:
                client.execute_command(
                    "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1
                )
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                for other, bus in zip(self.servers[:number], self._buses, strict=False):
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        self.wait()

    def wait(self) -> None:
        """Waits until every server knows which one holds which slots, and reaches it.

        Raises:
            TimeoutError: It takes too long.
        """
        deadline = time.monotonic() + READY_SECONDS
        for server in self.servers:
            with self.client(server) as client:
                while not _knows_all(client):
                    if time.monotonic() > deadline:
                        raise TimeoutError("the servers of the cluster do not find each other")
                    time.sleep(POLL_SECONDS)

    def stop_blocking(self) -> None:
        """Stops the servers."""
        for server in self.servers:
            server.stop_blocking()

    def flush(self) -> None:
        """Empties the servers."""
        for server in self.servers:
            with self.client(server) as client:
                client.flushall()

    @staticmethod
    def client(server: valkey.ValkeyServer) -> "redis.Redis":
        """Returns a client of one server alone."""
        return redis.Redis.from_url(server.url())


def _knows_all(client: "redis.Redis") -> bool:
    lines: bytes = client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]  # redis leaves it open.
    pairs = (line.partition(":") for line in lines.decode("ascii").splitlines())
    info = {name: value for name, _, value in pairs}
    return info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == SLOTS
