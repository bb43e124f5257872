"""A whole Setpoint on this machine: stores and services, started in order, stopped in reverse."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from setpoint_devstack import catalogue, errors, health, lock, ports, process, stores

DEFAULT_FOLDER = pathlib.Path("var/stack")
ADDRESSES = "addresses.json"
READY_SECONDS = 60.0
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.1
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CALM_SECONDS = 60.0
"""A service that ran this long before it died starts again without delay."""
RESOURCE = "OTEL_RESOURCE_ATTRIBUTES"
ENVIRONMENT_OF_CHILDREN = {"PYTHONUNBUFFERED": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"}


def running_addresses(folder: pathlib.Path = DEFAULT_FOLDER) -> dict[str, str] | None:
    """Returns where the services of the stack on a folder listen; None if no stack runs there."""
    if not lock.is_held(folder):
        return None
    try:
        found = json.loads((folder / ADDRESSES).read_text())
    except FileNotFoundError:
        return None
    return {str(name): str(address) for name, address in found.items()}


class Stack:
    """Runs PostgreSQL, Valkey and services as child processes that end with this one.

    Use it as `async with Stack(folder) as stack`, or call `start` and `stop`.

    Args:
        directory: state, logs and addresses; kept between runs. One stack at a time uses it.
        services: names or descriptions of the services to run; all by default.
        ports: fixed ports by service name, or `postgres` and `valkey`. A fixed port that is
            taken is an error; one that is not fixed gives way.
        replicas: how many there are of a service, by its name; further ones of `inference` are
            called `inference-2` and so on.
        default_ports: prefer the documented ports to any free ones.
        environment: variables for all services, beside this process's own.
        dev: whether services answer gRPC reflection.
        restart: start a service again when it dies, with growing pauses.
        say: gets messages for people: about what, and the text.
    """

    def __init__(
        self,
        directory: pathlib.Path = DEFAULT_FOLDER,
        services: Iterable[str | catalogue.Service] | None = None,
        ports: Mapping[str, int] | None = None,
        *,
        replicas: Mapping[str, int] | None = None,
        default_ports: bool = True,
        environment: Mapping[str, str] | None = None,
        dev: bool = True,
        restart: bool = False,
        say: stores.Say | None = None,
    ) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self.services = catalogue.select(services, replicas)
        self.addresses: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.failure: errors.ProcessDiedError | None = None
        self._fixed_ports = dict(ports or {})
        self._default_ports = default_ports
        self._extra = dict(environment or {})
        self._dev = dev
        self._restart = restart
        self._say = say or _say_nothing
        self._lock: lock.FolderLock | None = None
        self._stores: stores.Stores | None = None
        self._children: dict[str, process.GuardedProcess] = {}
        self._started: dict[str, float] = {}
        self._expected: set[str] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()
        self._reserved: list[int] = []

    @property
    def logs(self) -> dict[str, pathlib.Path]:
        """The log file of each process."""
        names = [stores.POSTGRES, stores.VALKEY, *(service.name for service in self.services)]
        return {name: self.directory / "logs" / f"{name}.log" for name in names}

    async def __aenter__(self) -> Self:
        """Starts the stack."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the stack."""
        await self.stop()

    async def start(self) -> None:
        """Starts everything and returns when every service is ready.

        Raises:
            AlreadyRunningError: if another stack uses the folder.
            ProcessDiedError: if a process ends before it is ready; with its last log lines.
            DevstackError: if something else is in the way.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        held = lock.FolderLock(self.directory)
        await held.acquire()
        self._lock = held
        try:
            await self._start(held)
        except BaseException:
            # Also when cancelled by Ctrl-C: what runs already is stopped before anything else.
            await asyncio.shield(self.stop())
            raise

    async def _start(self, held: lock.FolderLock) -> None:
        self._set_old_logs_aside()
        used = self._stores = stores.Stores(
            self.directory,
            self.services,
            self.directory / "logs",
            say=self._say,
            store_ports=stores.StorePorts(
                self._fixed_ports.get(stores.POSTGRES), self._fixed_ports.get(stores.VALKEY)
            ),
            use_default_ports=self._default_ports,
            inherited=held.inherited,
        )
        service_ports = {service.name: self._ports_of(service) for service in self.services}
        await used.start()
        self.addresses = {n: f"{ports.LOOPBACK}:{p}" for n, (p, _) in service_ports.items()}
        for service in self.services:
            self._make_child(service, service_ports[service.name], used.urls(service), held)
        await self._start_services()
        self._watcher = asyncio.create_task(self._watch(), name="stack watcher")
        self._write_addresses({**self.addresses, **used.addresses})

    def _set_old_logs_aside(self) -> None:
        (self.directory / "logs").mkdir(exist_ok=True)
        for path in self.logs.values():
            if path.exists():
                path.replace(path.with_suffix(".previous.log"))

    def _ports_of(self, service: catalogue.Service) -> tuple[int, int]:
        fixed = self._fixed_ports.get(service.name)
        if fixed is not None:
            if not ports.is_free(fixed):
                raise errors.DevstackError(f"port {fixed}, wanted for {service.name}, is taken")
            port = fixed
        elif self._default_ports:
            port = ports.prefer(service.port)
            if port != service.port:
                self._say(
                    service.name, f"port {service.port} is taken; {service.name} listens on {port}"
                )
        else:
            port = ports.free_port()
        metrics = ports.prefer(port + catalogue.METRICS_OFFSET)
        self._reserved += [port, metrics]
        return port, metrics

    def _make_child(
        self,
        service: catalogue.Service,
        service_ports: tuple[int, int],
        urls: Mapping[str, str],
        held: lock.FolderLock,
    ) -> None:
        together = self._addresses_by_service()
        own = catalogue.environment(service, self.directory, together, service_ports, urls)
        own[f"{service.prefix}DEV"] = "true" if self._dev else "false"
        if not service.replica_of:
            self.environment.update(own)
        # So that a trace says which replica answered.
        named = [os.environ.get(RESOURCE), f"service.instance.id={service.name}"]
        own[RESOURCE] = ",".join(filter(None, named))
        self._children[service.name] = process.GuardedProcess(
            service.name,
            service.argv,
            self.logs[service.name],
            environment={**os.environ, **ENVIRONMENT_OF_CHILDREN, **own, **self._extra},
            grace_seconds=GRACE_SECONDS,
            inherited=held.inherited,
        )

    def _addresses_by_service(self) -> dict[str, str]:
        """Returns all addresses of each service, those of replicas with commas."""
        found: dict[str, list[str]] = {}
        for service in self.services:
            found.setdefault(service.service, []).append(self.addresses[service.name])
        return {name: ",".join(addresses) for name, addresses in found.items()}

    async def _start_services(self) -> None:
        """Starts each service as soon as those it calls are ready."""
        ready = {service.name: asyncio.Event() for service in self.services}

        async def start_one(service: catalogue.Service) -> None:
            for peer in self.services:
                if peer.service in service.peers:
                    await ready[peer.name].wait()
            await self._start_child(service.name)
            ready[service.name].set()

        tasks = [asyncio.create_task(start_one(s), name=f"start {s.name}") for s in self.services]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_child(self, name: str) -> None:
        child = self._children[name]
        begin = time.monotonic()
        await process.in_thread(child.start)
        self._started[name] = begin
        while not await health.is_serving(self.addresses[name]):
            if child.poll() is not None:
                raise self._death(name)
            if time.monotonic() - begin > READY_SECONDS:
                lines = "\n".join(process.tail(self.logs[name]))
                raise errors.DevstackError(
                    f"{name} is not ready after {READY_SECONDS:.0f} s:\n{lines}"
                )
            await asyncio.sleep(POLL_SECONDS)
        # Something else may answer on the port while the service itself could not take it.
        if child.poll() is not None:
            raise self._death(name)
        self._say(name, f"ready on {self.addresses[name]} after {time.monotonic() - begin:.1f} s")

    def _death(self, name: str) -> errors.ProcessDiedError:
        code = self._all_children()[name].poll()
        lines = "\n".join(process.tail(self.logs[name]))
        how = process.describe_exit(code if code is not None else 0)
        return errors.ProcessDiedError(f"{name} ended ({how}); its last lines:\n{lines}")

    def _all_children(self) -> dict[str, process.GuardedProcess]:
        return {**(self._stores.children if self._stores else {}), **self._children}

    def _write_addresses(self, addresses: Mapping[str, str]) -> None:
        new = self.directory / f"{ADDRESSES}.new"
        new.write_text(json.dumps(addresses, indent=2) + "\n")
        new.replace(self.directory / ADDRESSES)

    async def _watch(self) -> None:
        """Notices processes that end without being asked to."""
        restarts: dict[str, int] = {}
        while True:
            for name, child in self._all_children().items():
                if name in self._expected or child.running:
                    continue
                failure = self._death(name)
                if not self._restart or name not in self._children:
                    self._fail(failure)
                    return
                await self._revive(name, failure, restarts)
            await asyncio.sleep(POLL_SECONDS)

    async def _revive(
        self, name: str, failure: errors.ProcessDiedError, restarts: dict[str, int]
    ) -> None:
        if time.monotonic() - self._started[name] > CALM_SECONDS:
            restarts[name] = 0
        number = restarts.get(name, 0)
        restarts[name] = number + 1
        pause = BACKOFF_SECONDS[min(number, len(BACKOFF_SECONDS) - 1)]
        self._say(name, f"{failure}\nstarting again in {pause:g} s")
        await asyncio.sleep(pause)
        try:
            await self._start_child(name)
        except errors.DevstackError:
            # Seen again at the next look, with a longer pause.
            await self._children[name].stop()

    def _fail(self, failure: errors.ProcessDiedError) -> None:
        self.failure = failure
        self._failed.set()

    async def wait(self) -> None:
        """Waits until a process ends without being asked to.

        Raises:
            ProcessDiedError: then.
        """
        await self._failed.wait()
        if self.failure is not None:
            raise self.failure

    def pid(self, name: str) -> int:
        """Returns the process id of a service or store.

        Raises:
            DevstackError: if it is not part of the stack or not started.
        """
        return self._child(name).pid

    def is_running(self, name: str) -> bool:
        """Says whether the process of a service or store runs."""
        return self._child(name).running

    def _child(self, name: str) -> process.GuardedProcess:
        children = self._all_children()
        if name not in children:
            raise errors.DevstackError(f"{name} is not part of this stack")
        return children[name]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a service or store, such as SIGSTOP and SIGCONT to freeze it."""
        self._child(name).signal(number)

    async def kill(self, name: str) -> None:
        """Ends a service or store at once, as a crash would; the stack takes no offence."""
        child = self._child(name)
        self._expected.add(name)
        child.signal(signal.SIGKILL)
        await child.wait(READY_SECONDS)

    def kill_all(self) -> None:
        """Ends every service at once, for a stop that must not take its time."""
        for name, child in self._children.items():
            self._expected.add(name)
            child.signal(signal.SIGKILL)

    async def stop_service(self, name: str) -> None:
        """Stops a service or store politely; the stack goes on without it."""
        self._expected.add(name)
        await self._child(name).stop()

    async def restart(self, name: str) -> None:
        """Starts a service or store again at its old address, stopping it first if it runs.

        Raises:
            ProcessDiedError: if it ends before it is ready.
        """
        child = self._child(name)
        self._expected.add(name)
        if name in self._children:
            await child.stop()
            await self._start_child(name)
        elif self._stores is not None:
            await self._stores.restart(name)
        self._expected.discard(name)

    async def stop(self) -> None:
        """Stops services in reverse order, then the stores; doing so twice is fine."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        if self._lock is None:
            return
        (self.directory / ADDRESSES).unlink(missing_ok=True)
        try:
            await self._stop_services()
        finally:
            if self._stores is not None:
                await self._stores.stop()
            while self._reserved:
                ports.release(self._reserved.pop())
            self._lock.release()
            self._lock = None

    async def _stop_services(self) -> None:
        """Stops each service as soon as those that call it have ended."""
        ended = {name: asyncio.Event() for name in self._children}

        async def stop_one(service: catalogue.Service) -> None:
            for other in self.services:
                if service.service in other.peers and other.name in ended:
                    await ended[other.name].wait()
            child = self._children[service.name]
            if child.running:
                code = await child.stop()
                if code is not None:
                    self._say(service.name, f"stopped ({process.describe_exit(code)})")
            ended[service.name].set()

        await asyncio.gather(*(stop_one(s) for s in self.services if s.name in ended))


def _say_nothing(_: str, __: str) -> None:
    """Is what `say` does when nobody listens."""
