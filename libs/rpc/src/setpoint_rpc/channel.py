"""Channels to other services, with deadlines, traces and health-aware balancing built in.

grpc.aio runs each client interceptor in a task of its own around every call, which costs more than
the call's own Python work. The channel is therefore wrapped instead: a stub's callable computes
time-out and metadata and calls grpc.aio's directly, whose call object the caller gets.
"""

import asyncio
import ipaddress
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from opentelemetry import trace

from setpoint_rpc import context, spans, status, tls
from setpoint_rpc.http2 import direct, headers

from_rpc_error = status.from_rpc_error

SHAVE_SECONDS = 0.020
"""Kept back from the caller's remaining time, to answer in after a peer has used up its own."""

DEFAULT_SECONDS = 2.0
"""Time for a call with one request and one answer when nothing else is said."""

STREAM_SECONDS = 600.0
"""Time for a call with a stream in either direction when nothing else is said."""

METHOD_SECONDS = {
    # The serving path.
    "/setpoint.inference.v1.InferenceService/Predict": 0.5,
    "/setpoint.feature.v1.FeatureService/GetOnlineFeatures": 0.15,
    # Work whose size the caller chooses, or that fetches an artifact first.
    "/setpoint.feature.v1.FeatureService/WriteFeatures": 10.0,
    "/setpoint.inference.v1.InferenceService/LoadModel": 30.0,
    "/setpoint.router.v1.RouterService/PredictBatch": 10.0,
}
"""Times by method."""

DIRECT_METHODS = frozenset(
    (
        "/setpoint.inference.v1.InferenceService/Predict",
        "/setpoint.feature.v1.FeatureService/GetOnlineFeatures",
    )
)
"""Methods of the serving path, which are safe to repeat: they take a connection of our own."""

SERVICE_SECONDS = {"setpoint.monitoring.v1.IngestService": 5.0}
"""Times by service."""

_ADDRESSES = "ipv4:"
_MAXIMUM_MESSAGE_BYTES = 4 * 1024 * 1024


def _retry(initial: str, maximum: str) -> dict[str, Any]:
    return {
        "maxAttempts": 2,
        "initialBackoff": initial,
        "maxBackoff": maximum,
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }


SERVICE_CONFIG: dict[str, Any] = {
    # pick_first ignores health.
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    # No "timeout" anywhere: gRPC core fires it one to two seconds early.
    "methodConfig": [
        {"name": [{}], "waitForReady": False},
        {
            "name": [{"service": "setpoint.inference.v1.InferenceService", "method": "Predict"}],
            "retryPolicy": _retry("0.02s", "0.2s"),
        },
        {
            "name": [
                {"service": "setpoint.feature.v1.FeatureService", "method": "GetOnlineFeatures"}
            ],
            "retryPolicy": _retry("0.01s", "0.05s"),
        },
        # Shipping goes on in the background, with its own deadline and a spool behind it.
        {"name": [{"service": "setpoint.monitoring.v1.IngestService"}], "waitForReady": True},
    ],
}
"""gRPC service config; a misplaced key is ignored in silence, so a test holds its form."""

_OF_REPLICA: dict[str, Any] = SERVICE_CONFIG | {
    "methodConfig": [
        {key: value for key, value in method.items() if key != "retryPolicy"}
        for method in SERVICE_CONFIG["methodConfig"]
    ]
}


def connect(
    target: str,
    *,
    client: str,
    identity: tls.TLSFiles | None = None,
    authority: str = "",
    is_replica: bool = False,
) -> "Channel":
    """Return a channel to a service; generated stubs take it as they take grpc.aio's own.

    Every call gets a deadline, `min(own or default time-out, remaining time of the call being
    served - 20 ms)`, the caller's name, and the current trace. Failures are raised as
    `grpc.aio.AioRpcError`; `from_rpc_error` turns them into typed errors.

    Args:
        target: `host:port` or any gRPC name; with `dns:///` all addresses behind it are used, and
            so are all of several `address:port` with commas.
        client: Short name of the calling service.
        identity: Files for mutual TLS; by default those of the process, if it has any.
        authority: The name that the peer's certificate has, where the target is an address.
        is_replica: Whether the target is one of several replicas among which the caller chooses by
            itself. Then nothing is repeated here, since the caller repeats on another one, and a
            lost replica is looked for every second.
    """
    client = client.removeprefix("setpoint-")
    identity = identity or tls.CURRENT.get()
    options = channel_arguments(client, is_replica=is_replica)
    if authority:
        options.append(("grpc.default_authority", authority))
    if "," in target and "://" not in target and not target.startswith(_ADDRESSES):
        target = f"{_ADDRESSES}{target}"
    if identity is None:
        inner = grpc.aio.insecure_channel(target, options=options)
    else:
        inner = grpc.aio.secure_channel(target, identity.channel_credentials(), options=options)
    return Channel(
        inner, client, _direct(target, client, identity, authority), is_replica=is_replica
    )


def _direct(
    target: str, client: str, identity: tls.TLSFiles | None, authority: str
) -> direct.Direct | None:
    """Return a connection beside the channel where the target is one address, else None."""
    host, _, port = target.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or not _is_address(host):
        return None
    return direct.Direct(
        host,
        int(port),
        fields=[("user-agent", f"setpoint-{client}"), (context.CALLER_KEY, client)],
        maximum_message=_MAXIMUM_MESSAGE_BYTES,
        context=None if identity is None else identity.client_context,
        server_name=authority,
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def channel_arguments(client: str, *, is_replica: bool = False) -> list[tuple[str, Any]]:
    """Return the arguments of gRPC core for a channel of ours."""
    return [
        ("grpc.service_config", json.dumps(_OF_REPLICA if is_replica else SERVICE_CONFIG)),
        # A resolver's config would win.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 1),
        # Larger requests would silently lose their retry.
        ("grpc.per_rpc_retry_buffer_size", _MAXIMUM_MESSAGE_BYTES),
        # A lost network is found in 35 seconds; the keepalive time-out alone never fires, the
        # ping time-out does.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A restarted peer is found within two seconds; the minimum also bounds the handshake.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 1_000 if is_replica else 5_000),
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        ("grpc.max_receive_message_length", _MAXIMUM_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAXIMUM_MESSAGE_BYTES),
        # http_proxy is meant for the outside and would capture internal calls.
        ("grpc.enable_http_proxy", 0),
        # Several channels to one target are several connections.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.primary_user_agent", f"setpoint-{client}"),
    ]


class _Carrier:
    """Adds to a call what every call of this channel carries."""

    __slots__ = ("_alone", "_caller")

    def __init__(self, client: str) -> None:
        self._caller = (context.CALLER_KEY, client)
        # Built once: most calls are of no trace and add nothing of their own.
        self._alone = grpc.aio.Metadata(self._caller)

    def metadata(self, given: Any) -> grpc.aio.Metadata:
        """Return the given metadata with caller and trace; a given trace is kept."""
        if given is None:
            header = _traceparent()
            if header is None:
                return self._alone
            return grpc.aio.Metadata(self._caller, (context.TRACEPARENT_KEY, header))
        return grpc.aio.Metadata(self._caller, *_with_trace(given))


class _Callable:
    """A method of a stub."""

    __slots__ = ("_call", "_carrier", "_default_seconds")

    def __init__(self, call: Callable[..., Any], carrier: _Carrier, default_seconds: float) -> None:
        self._call = call
        self._carrier = carrier
        self._default_seconds = default_seconds

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Begin the call; `request` is one message or an iterator of them."""
        return self._call(
            request,
            timeout=_bounded(self._default_seconds if timeout is None else timeout),
            metadata=self._carrier.metadata(metadata),
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )


class _DirectCallable:
    """A method of a stub that is called often enough for a connection of our own."""

    __slots__ = (
        "_direct",
        "_is_replica",
        "_method",
        "_read",
        "_seconds",
        "_through_core",
        "_write",
    )

    def __init__(
        self,
        connection: direct.Direct,
        method: str,
        through_core: _Callable,
        write: Callable[[Any], bytes] | None,
        read: Callable[[bytes], Any] | None,
        *,
        is_replica: bool,
    ) -> None:
        self._direct = connection
        self._method = method
        self._through_core = through_core
        self._write = write or _unchanged
        self._read = read or _unchanged
        self._seconds = _seconds(method)
        self._is_replica = is_replica

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> Any:
        """Begin the call; what is returned can be waited for and cancelled."""
        if not options:
            seconds = _bounded(self._seconds if timeout is None else timeout)
            added = _with_trace(metadata)
            answer = self._direct.ask(
                self._method, self._write(request), seconds, added, self._read
            )
            if answer is not None:
                if self._is_replica:
                    return answer
                deadline = time.monotonic() + seconds
                return asyncio.ensure_future(self._repeated(answer, request, deadline, metadata))
        return self._through_core(request, timeout=timeout, metadata=metadata, **options)

    async def _repeated(
        self, answer: direct.Answer, request: Any, deadline: float, metadata: Any
    ) -> Any:
        """Wait for the answer; a call that was lost on its way is made again through gRPC core."""
        try:
            return await answer
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or error.trailing_metadata():
                raise
        return await self._through_core(
            request, timeout=max(0.0, deadline - time.monotonic()), metadata=metadata
        )


class Channel(grpc.aio.Channel):
    """A grpc.aio channel whose calls carry deadline, trace and caller."""

    def __init__(
        self,
        inner: grpc.aio.Channel,
        client: str,
        connection: direct.Direct | None = None,
        *,
        is_replica: bool = False,
    ) -> None:
        """Wrap a channel; calls of the serving path go through `connection` while it stands."""
        self._inner = inner
        self._carrier = _Carrier(client)
        self._direct = connection
        self._is_replica = is_replica

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the callable of a method with one request and one answer."""
        codec = (request_serializer, response_deserializer)
        make = self._inner.unary_unary
        called = self._wrapped(make, method, codec, kwargs, _seconds(method))
        if self._direct is None or method not in DIRECT_METHODS:
            return called
        return _DirectCallable(self._direct, method, called, *codec, is_replica=self._is_replica)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the callable of a method with one request and many answers."""
        return self._wrapped(self._inner.unary_stream, method, args, kwargs, STREAM_SECONDS)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the callable of a method with many requests and one answer."""
        return self._wrapped(self._inner.stream_unary, method, args, kwargs, STREAM_SECONDS)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the callable of a method with many requests and many answers."""
        return self._wrapped(self._inner.stream_stream, method, args, kwargs, STREAM_SECONDS)

    def _wrapped(
        self,
        make: Callable[..., Callable[..., Any]],
        method: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        seconds: float,
    ) -> _Callable:
        return _Callable(make(method, *args, **kwargs), self._carrier, seconds)

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; calls in flight get `grace` seconds, none without."""
        if self._direct is not None:
            await self._direct.close(grace)
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the connection is in another state."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the connection stands and the peer says that it serves."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> "Channel":
        """Return the channel."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the channel at once."""
        await self.close()


def _unchanged(message: Any) -> Any:
    return message


def _with_trace(given: Any) -> headers.Metadata:
    """Return the given metadata with the trace; a given trace is kept."""
    pairs = tuple((key, value) for key, value in given) if given else ()
    header = _traceparent()
    if header is None or any(key == context.TRACEPARENT_KEY for key, _ in pairs):
        return pairs
    return (*pairs, (context.TRACEPARENT_KEY, header))


def _seconds(method: str) -> float:
    service = method.removeprefix("/").partition("/")[0]
    return METHOD_SECONDS.get(method, SERVICE_SECONDS.get(service, DEFAULT_SECONDS))


def _bounded(seconds: float) -> float:
    """Return the time-out, cut to what the call being served has left."""
    served = context.remaining_seconds()
    if served is None:
        return seconds
    return max(0.0, min(seconds, served - SHAVE_SECONDS))


def _traceparent() -> str | None:
    """Return the header of the current span, else the one that came with the call being served."""
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        return spans.traceparent_of(current)
    return context.traceparent()
