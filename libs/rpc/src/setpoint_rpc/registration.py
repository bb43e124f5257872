"""Takes handlers in where generated code believes it has a server, and wraps them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from setpoint_rpc.http2 import endpoints

Wrap = Callable[[str, str, "grpc.RpcMethodHandler[Any, Any]"], endpoints.Endpoint]
Door = Callable[[int], endpoints.Refusal | None]


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    """What a generic handler is asked with."""

    method: str
    invocation_metadata: tuple[()] = ()


class Registry:
    """All methods of a server, found in one step by their path."""

    def __init__(self) -> None:
        self._wrapped: dict[str, endpoints.Endpoint] = {}
        self._doors: dict[str, Door] = {}
        self._generic: list[tuple[grpc.GenericRpcHandler, Wrap]] = []

    def find(self, path: str, beginning: int) -> endpoints.Endpoint | endpoints.Refusal | None:
        """Return how a method is served now, or None when there is no such method.

        Args:
            path: Such as `/package.Service/Method`.
            beginning: Calls that have been let in and whose handlers have not begun.
        """
        found = self._wrapped.get(path)
        if found is None:
            return self._find(path)
        door = self._doors.get(path)
        return found if door is None else door(beginning) or found

    def add(self, path: str, endpoint: endpoints.Endpoint) -> None:
        """Take in one wrapped handler."""
        self._wrapped[path] = endpoint

    def add_door(self, path: str, door: Door) -> None:
        """Ask at each call of a method whether it shall be turned away."""
        self._doors[path] = door

    def add_generic(self, handler: "grpc.GenericRpcHandler", wrap: Wrap) -> None:
        """Take in a handler that tells its methods only when asked."""
        self._generic.append((handler, wrap))

    def _find(self, path: str) -> endpoints.Endpoint | None:
        for generic, wrap in self._generic:
            handler = generic.service(_Details(path))
            if handler is not None:
                service, _, method = path.removeprefix("/").partition("/")
                # Only methods that exist are kept, so a caller cannot fill the memory with names.
                wrapped = self._wrapped[path] = wrap(service, method, handler)
                return wrapped
        return None


class Registrar:
    """What `add_XServicer_to_server` is given in place of a server."""

    def __init__(self, registry: Registry, wrap: Wrap) -> None:
        self._registry = registry
        self._wrap = wrap

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Take in the methods of a service by name."""
        for method, handler in method_handlers.items():
            wrapped = self._wrap(service_name, method, handler)
            self._registry.add(f"/{service_name}/{method}", wrapped)

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: "Sequence[grpc.GenericRpcHandler]"
    ) -> None:
        """Take in handlers that tell their methods only when asked."""
        for handler in generic_rpc_handlers:
            self._registry.add_generic(handler, self._wrap)
