"""The one builder of gRPC servers."""

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]  # no annotations
from prometheus_client import REGISTRY, CollectorRegistry

import setpoint_telemetry
from setpoint_rpc import context, handlers, health, metrics, probes, registration, tls
from setpoint_rpc.http2 import endpoints, listener
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors
from setpoint_runtime import settings as runtime_settings

_LOGGER = setpoint_telemetry.get_logger(__name__)
_DEFAULT_GRACE_SECONDS = 20.0
# Health and reflection answer also when the services are overloaded.
_INFRASTRUCTURE_IN_FLIGHT = 1000


class StartError(Exception):
    """The server cannot start; the text names the setting to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server listens and what it lets in."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 lets the system choose."""
    metrics_port: int | None = 0
    """0 lets the system choose; None serves neither metrics nor probes over HTTP."""
    dev: bool = False
    """Offer gRPC reflection."""
    allow_insecure_remote: bool = False
    """Permit listening beyond loopback without TLS."""
    identity: tls.TLSFiles | None = None
    """Serve with mutual TLS."""
    default_deadline_seconds: float = 30.0
    """Time for a call with one request and one answer whose caller set no deadline."""
    maximum_in_flight: int = 5000
    """Calls served at once; an outer fuse, services set their own limits below it."""
    maximum_message_bytes: int = 4 * 1024 * 1024
    """Greatest message in either direction."""
    maximum_connection_age_seconds: float = 120.0
    """Connections are renewed this often, so that new replicas get their share."""
    maximum_connection_age_grace_seconds: float = 20.0
    """Time that streams get to end on a connection that has reached its age."""

    @classmethod
    def from_settings(cls, settings: runtime_settings.ServiceSettings) -> Self:
        """Return the options that a service's settings ask for."""
        return cls(
            host=settings.host,
            port=settings.port,
            metrics_port=settings.effective_metrics_port,
            dev=settings.dev,
            allow_insecure_remote=settings.allow_insecure_remote,
            identity=tls.TLSFiles.from_settings(settings),
            maximum_connection_age_grace_seconds=settings.stream_seconds,
        )


class Server:
    """A gRPC server with health, probes, metrics, deadlines and typed errors.

    Make it inside the running loop that shall serve. The order of its life is `bind`, `add` for
    each servicer, `start`, `set_ready(True)`, `drain`, `stop`; `start` binds when nobody did.
    """

    def __init__(
        self,
        service_name: str,
        options: ServerOptions | None = None,
        clock: clocks.Clock | None = None,
    ) -> None:
        """Prepare a server.

        Args:
            service_name: Short name such as `router`, for messages and settings' names.
            options: How to listen; by default on a free loopback port.
            clock: Time for those who build on this server.

        Raises:
            StartError: The options would listen beyond loopback without TLS.
        """
        self.service_name = service_name
        self.options = options or ServerOptions()
        self.clock = clock or clocks.SystemClock()
        self.draining = asyncio.Event()
        """Set when the server begins to stop."""
        self.failed = asyncio.Event()
        """Set when a part of the process has died and the rest should not go on."""
        self.failure: str | None = None
        """What died."""
        self.port = 0
        self._check_exposure()
        self._lag = probes.LoopLag()
        self.health = health.Health(self._lag.is_alive)
        self.metrics_registry = CollectorRegistry()
        self._metrics = metrics.ServerMetrics(self._lag.seconds)
        self.metrics_registry.register(self._metrics)
        self._probes = probes.ProbeServer(
            (self.metrics_registry, REGISTRY), self._lag.is_alive, lambda: self.health.is_ready
        )
        self._guard = handlers.Guard(
            self.options.default_deadline_seconds, self.options.maximum_in_flight
        )
        self._registry = registration.Registry()
        self._listener = listener.Listener(
            self._registry.find,
            maximum_message=self.options.maximum_message_bytes,
            maximum_age_seconds=self.options.maximum_connection_age_seconds,
            age_grace_seconds=self.options.maximum_connection_age_grace_seconds,
        )
        self._service_names: list[str] = []
        self._descriptors: list[DescriptorPool] = []
        self._identity: tls.ServerIdentity | None = None
        self._watch_identity: asyncio.Task[None] | None = None
        setpoint_telemetry.add_trace_source(context.traceparent)
        self._add_health()

    @property
    def address(self) -> str:
        """Where to connect to, once bound."""
        return _joined(self.options.host, self.port)

    @property
    def metrics_port(self) -> int:
        """The port of metrics and probes, once bound; 0 when there is none."""
        return self._probes.port

    def add(
        self,
        add_fn: Callable[[Any, Any], None],
        servicer: object,
        full_service_name: str,
        *,
        untraced_methods: frozenset[str] = frozenset(),
        watch_methods: frozenset[str] = frozenset(),
        doors: Mapping[str, Callable[[int], errors.SetpointError | None]] = MappingProxyType({}),
        descriptors: DescriptorPool | None = None,
    ) -> None:
        """Serve one more service.

        Args:
            add_fn: The generated `add_XServiceServicer_to_server`.
            servicer: Its servicer; all methods are coroutines or asynchronous generators.
            full_service_name: Such as `setpoint.router.v1.RouterService`.
            untraced_methods: Methods whose spans the service builds by itself, off the path.
            watch_methods: Streams that go on until the caller leaves; they end when the server
                drains, instead of using up the grace of the others.
            doors: By method, asked before a call's request is read, and told how many calls have been
                let in whose handlers have not begun: an error turns the call away, as cheaply as
                that can be done. Give the same few errors again and again.
            descriptors: Where its messages are described, if not in the pool that generated code
                shares; for reflection.
        """
        tracer = setpoint_telemetry.tracer(__name__) if setpoint_telemetry.enabled() else None

        def wrap(
            service: str, name: str, handler: "grpc.RpcMethodHandler[Any, Any]"
        ) -> endpoints.Endpoint:
            method = handlers.Method(
                service=service,
                name=name,
                stats=self._metrics.method(service, name),
                guard=self._guard,
                tracer=None if name in untraced_methods else tracer,
                is_watch=name in watch_methods,
            )
            if name in doors:
                door = handlers.door(doors[name], method)
                self._registry.add_door(f"/{service}/{name}", door)
            return handlers.wrap(handler, method)

        add_fn(servicer, registration.Registrar(self._registry, wrap))
        self._service_names.append(full_service_name)
        if descriptors is not None:
            self._descriptors.append(descriptors)
        self.health.add(full_service_name)

    async def bind(self) -> None:
        """Take the ports and begin to answer probes; calls wait until `start`.

        Raises:
            StartError: A port is taken.
        """
        if self.port:
            return
        if self.options.identity is not None:
            self._identity = self._read_identity(self.options.identity)
        try:
            self.port = await self._listener.bind(self.options.host, self.options.port)
        except OSError as error:
            address = _joined(self.options.host, self.options.port)
            raise self._taken(address, "PORT") from error
        self._lag.start()
        if self.options.metrics_port is not None:
            try:
                await self._probes.start(self.options.host, self.options.metrics_port)
            except OSError as error:
                taken = _joined(self.options.host, self.options.metrics_port)
                raise self._taken(taken, "METRICS_PORT") from error

    async def start(self) -> None:
        """Begin to serve; health says NOT_SERVING until `set_ready(True)`.

        Raises:
            StartError: A port is taken.
        """
        await self.bind()
        if self.options.dev:
            self._add_reflection()
        context = None
        if self._identity is not None:
            context = self._identity.context()
            watch = self._identity.watch()
            self._watch_identity = asyncio.create_task(watch, name="watch certificate")
        await self._listener.start(context)
        _LOGGER.info("listening", address=self.address, metrics_port=self.metrics_port)

    async def set_ready(self, is_ready: bool) -> None:
        """Say whether work may be given to this server."""
        self.health.set_ready(is_ready)

    def request_stop(self, reason: str) -> None:
        """Ask for the end of the process because a part of it has died."""
        self.failure = self.failure or reason
        self.failed.set()

    def task_failed(self, name: str, error: BaseException) -> None:
        """Ask for the end of the process; made to be the `on_failure` of a `TaskOwner`."""
        self.request_stop(f"background task {name} died: {type(error).__name__}")

    async def drain(self, seconds: float = 0.0) -> None:
        """Say NOT_SERVING, end watches, and go on serving for `seconds`.

        Load balancers need that time to look away; until they do, calls still arrive.
        """
        self.draining.set()
        self.health.close()
        self._guard.end_watches()
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def stop(self, grace_seconds: float = _DEFAULT_GRACE_SECONDS) -> None:
        """Refuse new calls, wait for those in flight, cancel what is left after the grace.

        A second call with less grace shortens the wait of the first.
        """
        await self.drain()
        await self._listener.stop(grace_seconds)
        self._lag.stop()
        if self._watch_identity is not None:
            self._watch_identity.cancel()
        await self._probes.stop()

    def _add_health(self) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._infrastructure())

    def _add_reflection(self) -> None:
        # Its descriptors are of no use outside development, so it is loaded only there.
        from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]
            reflection,
            reflection_pb2_grpc,
        )

        from setpoint_rpc import descriptors

        names = (*self._service_names, health.SERVICE, reflection.SERVICE_NAME)
        pools = descriptors.Pools(self._descriptors)
        servicer = reflection.aio.ReflectionServicer(names, pool=pools)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, self._infrastructure())

    def _infrastructure(self) -> registration.Registrar:
        """Return what takes in services beside those of the product."""
        guard = handlers.Guard(self.options.default_deadline_seconds, _INFRASTRUCTURE_IN_FLIGHT)

        def wrap(
            service: str, name: str, handler: "grpc.RpcMethodHandler[Any, Any]"
        ) -> endpoints.Endpoint:
            # Probes are not traffic: their statistics are kept to themselves.
            stats = metrics.MethodStats(service, name)
            return handlers.wrap(handler, handlers.Method(service, name, stats, guard))

        return registration.Registrar(self._registry, wrap)

    def _read_identity(self, files: tls.TLSFiles) -> tls.ServerIdentity:
        try:
            return tls.ServerIdentity(files)
        except OSError as error:
            raise StartError(
                f"cannot use the certificate: {error}; see {self._variable('TLS_CERTIFICATE_FILE')}, "
                f"{self._variable('TLS_KEY_FILE')} and {self._variable('TLS_AUTHORITY_FILE')}"
            ) from error

    def _check_exposure(self) -> None:
        options = self.options
        if options.identity or options.allow_insecure_remote or _is_loopback(options.host):
            return
        raise StartError(
            f"{options.host} is reachable from other machines and TLS is not set up; listen on "
            f"127.0.0.1, set {self._variable('TLS_CERTIFICATE_FILE')} and its companions, or set "
            f"{self._variable('ALLOW_INSECURE_REMOTE')}=true where the network is trusted"
        )

    def _taken(self, address: str, field: str) -> StartError:
        return StartError(
            f"cannot listen on {address}: the port is taken or the address is not of this machine; "
            f"set {self._variable(field)} to a free one"
        )

    def _variable(self, field: str) -> str:
        return f"SETPOINT_{self.service_name.upper()}_{field}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
