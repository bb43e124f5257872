"""Where the services are, and how calls and channels behave."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

import grpc

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""What servers accept in one message."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a safe call is repeated while the server is unavailable."""

    max_attempts: int = 4
    """Attempts in all; 1 means that nothing is repeated."""
    initial_seconds: float = 0.05
    """Longest pause before the second attempt; each pause is drawn from 0 up to its longest."""
    multiplier: float = 2.0
    """Growth of the longest pause."""
    max_seconds: float = 1.0
    """Longest pause of all."""


class ClientSettings(TypedDict, total=False):
    """What a client may be told; everything has a default.

    An address is `host:port` or any gRPC name; `dns:///host:port` balances over all addresses behind it.
    The defaults are those of a stack on this machine.
    """

    router_address: str
    inference_address: str
    feature_address: str
    validation_address: str
    monitoring_address: str
    retraining_address: str
    registry_address: str
    batch_address: str
    caller: str
    """Name of the calling program, by default `client`; predictions are recorded with it."""
    credentials: grpc.ChannelCredentials | None
    """TLS, for instance `grpc.ssl_channel_credentials(root)`; without, calls are in plain text."""
    retry: RetryPolicy
    """How calls are repeated that may be."""
    channel_arguments: Sequence[tuple[str, Any]]
    """Further arguments of gRPC core, such as a larger `grpc.max_receive_message_length`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The settings of a client with their defaults."""

    router_address: str = "127.0.0.1:7400"
    inference_address: str = "127.0.0.1:7401"
    feature_address: str = "127.0.0.1:7402"
    validation_address: str = "127.0.0.1:7403"
    monitoring_address: str = "127.0.0.1:7404"
    retraining_address: str = "127.0.0.1:7405"
    registry_address: str = "127.0.0.1:7406"
    batch_address: str = "127.0.0.1:7407"
    caller: str = "client"
    credentials: grpc.ChannelCredentials | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    channel_arguments: Sequence[tuple[str, Any]] = ()

    def address(self, service: str) -> str:
        """Returns the address of a service by its name."""
        found: str = getattr(self, f"{service}_address")
        return found


_SERVICE_CONFIG: Final = json.dumps(
    {
        # Only round_robin leaves out servers that say they do not serve. There is no retry policy: the
        # client repeats calls itself, and two layers would multiply.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
    }
)


def channel_arguments(options: ClientOptions) -> list[tuple[str, Any]]:
    """Returns the arguments of gRPC core for a channel of the client."""
    return [
        ("grpc.service_config", _SERVICE_CONFIG),
        # A resolver's config would win.
        ("grpc.service_config_disable_resolution", 1),
        # A lost network is found in 35 seconds; gRPC's keepalive time-out alone never fires.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
        # A restarted server is found within two seconds; the minimum also bounds the handshake.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.primary_user_agent", f"setpoint-client-{options.caller}"),
        *options.channel_arguments,
    ]
