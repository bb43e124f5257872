"""What services there are, what each needs, and in which order they can start."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

from setpoint_devstack import errors

METRICS_OFFSET = 1000
REPLICA_OFFSET = 100
MAXIMUM_REPLICAS = 9
REPLICATED = ("inference",)
"""Services that others find by several addresses."""


@dataclasses.dataclass(frozen=True)
class Service:
    """One service, as a stack runs it."""

    name: str
    port: int
    """The default gRPC port; metrics listen 1000 above."""
    peers: tuple[str, ...] = ()
    """Services it calls; it starts after those that are in the stack."""
    database: bool = True
    """Whether it owns a schema, named like itself."""
    valkey: bool = False
    folders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Setting to folder below the stack's, for what it keeps on disk."""
    command: tuple[str, ...] = ()
    """Program and arguments; `python -m setpoint_<name>` by default."""
    replica_of: str = ""
    """The service of which this is a further replica, which has a name of its own."""

    @property
    def service(self) -> str:
        """The service, which several replicas may be."""
        return self.replica_of or self.name

    @property
    def prefix(self) -> str:
        """What its environment variables begin with."""
        return f"SETPOINT_{self.service.upper()}_"

    @property
    def schema(self) -> str:
        """Its schema in the database, which replicas share."""
        return self.service

    @property
    def role(self) -> str:
        """Its login role, which owns the schema."""
        return f"setpoint_{self.service}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command to run."""
        return self.command or (sys.executable, "-m", f"setpoint_{self.service}")


ALL: tuple[Service, ...] = (
    Service("registry", 7406, folders={"ARTIFACT_URL": "artifacts"}),
    Service("validation", 7403),
    Service("monitoring", 7404, peers=("registry",)),
    Service(
        "feature",
        7402,
        peers=("monitoring", "registry"),
        valkey=True,
        folders={"SEGMENT_URL": "segments"},
    ),
    Service(
        "inference",
        7401,
        peers=("registry",),
        database=False,
        folders={"CACHE_DIRECTORY": "cache/inference"},
    ),
    Service(
        "router",
        7400,
        peers=("feature", "inference", "validation", "monitoring", "registry"),
        folders={"SPOOL_DIRECTORY": "spool/router"},
    ),
    Service(
        "retraining",
        7405,
        peers=("feature", "inference", "registry", "router", "monitoring", "validation"),
        folders={"WORK_DIRECTORY": "work/retraining"},
    ),
    Service(
        "batch",
        7407,
        peers=("feature", "registry", "validation"),
        folders={"WORK_DIRECTORY": "work/batch"},
    ),
)
"""Every service, in dependency order."""


def select(
    wanted: Iterable[str | Service] | None = None, replicas: Mapping[str, int] | None = None
) -> tuple[Service, ...]:
    """Returns services by name or as given, in the order in which they can start.

    Args:
        wanted: names and services; None means all.
        replicas: how many there are of a service, by its name; one by default.

    Raises:
        DevstackError: if a name is unknown or given twice, or peers wait for each other.
    """
    chosen = ordered(ALL if wanted is None else _named(wanted))
    numbers = dict(replicas or {})
    if unknown := numbers.keys() - {service.name for service in chosen}:
        raise errors.DevstackError(f"no service to replicate is called {sorted(unknown)[0]!r}")
    return tuple(
        each for service in chosen for each in replicated(service, numbers.get(service.name, 1))
    )


def parse_replicas(given: Iterable[str]) -> dict[str, int]:
    """Returns how many there shall be of services, from texts such as `inference=2`.

    Raises:
        DevstackError: if a text is no name and number.
    """
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal():
            raise errors.DevstackError(f"{text!r} is not like inference=2")
        found[name] = int(number)
    return found


def replicated(service: Service, number: int) -> list[Service]:
    """Returns a service and its further replicas, each on a port one hundred higher.

    Raises:
        DevstackError: if there should be fewer than one or more than nine, or if it is a service of
            which there can be only one.
    """
    if not 1 <= number <= MAXIMUM_REPLICAS:
        raise errors.DevstackError(
            f"there can be 1 to {MAXIMUM_REPLICAS} replicas of {service.name}, not {number}"
        )
    if number > 1 and service.name not in REPLICATED:
        raise errors.DevstackError(
            f"{service.name} runs once; {', '.join(REPLICATED)} can have replicas"
        )
    return [
        service,
        *(
            dataclasses.replace(
                service,
                name=f"{service.name}-{count}",
                replica_of=service.name,
                port=service.port + (count - 1) * REPLICA_OFFSET,
                folders={key: f"{below}-{count}" for key, below in service.folders.items()},
            )
            for count in range(2, number + 1)
        ),
    ]


def _named(wanted: Iterable[str | Service]) -> list[Service]:
    by_name = {service.name: service for service in ALL}
    chosen = []
    for item in wanted:
        if isinstance(item, Service):
            chosen.append(item)
        elif item in by_name:
            chosen.append(by_name[item])
        else:
            raise errors.DevstackError(
                f"no service is called {item!r}; there are {', '.join(by_name)}"
            )
    return chosen


def ordered(services: Sequence[Service]) -> tuple[Service, ...]:
    """Returns the services so that each comes after those it calls.

    Raises:
        DevstackError: if a name comes twice or peers wait for each other.
    """
    waiting = list(services)
    names = {service.name for service in waiting}
    if len(names) != len(waiting):
        raise errors.DevstackError("a service is named twice")
    done: list[Service] = []
    while waiting:
        placed = {service.name for service in done}
        ready = [s for s in waiting if all(p in placed or p not in names for p in s.peers)]
        if not ready:
            circle = ", ".join(service.name for service in waiting)
            raise errors.DevstackError(f"these services wait for each other: {circle}")
        done += ready
        waiting = [service for service in waiting if service not in ready]
    return tuple(done)


def environment(
    service: Service,
    folder: pathlib.Path,
    addresses: Mapping[str, str],
    ports: tuple[int, int],
    urls: Mapping[str, str],
) -> dict[str, str]:
    """Returns the variables that one service is started with.

    Args:
        service: the service.
        folder: the stack's folder.
        addresses: where each service of the stack listens, replicas with commas.
        ports: its gRPC port and the port of its metrics.
        urls: `DATABASE_URL` and `VALKEY_URL`, those it needs.
    """
    values = {
        "PORT": str(ports[0]),
        "METRICS_PORT": str(ports[1]),
        # Whole objects in the log file; whoever prints them makes them readable.
        "LOG_FORMAT": "json",
        # Nobody balances load here, so nobody has to look away before a stop.
        "DRAIN_SECONDS": "0.05",
        **urls,
    }
    for setting, below in service.folders.items():
        path = folder / below
        path.mkdir(parents=True, exist_ok=True)
        values[setting] = str(path)
    for peer in service.peers:
        if peer in addresses:
            values[f"{peer.upper()}_ADDRESS"] = addresses[peer]
    return {f"{service.prefix}{name}": value for name, value in values.items()}
