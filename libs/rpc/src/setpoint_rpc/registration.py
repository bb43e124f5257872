"""Takes handlers in where generated code believes it has a server, and wraps them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

Wrap = Callable[[str, str, "grpc.RpcMethodHandler[Any, Any]"], "grpc.RpcMethodHandler[Any, Any]"]


Door = Callable[[], "grpc.RpcMethodHandler[Any, Any] | None"]


class Registry(grpc.GenericRpcHandler):
    """All methods of a server, found in one step by their path."""

    def __init__(self) -> None:
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._doors: dict[str, Door] = {}
        self._generic: list[tuple[grpc.GenericRpcHandler, Wrap]] = []

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the wrapped handler of a method, or None for UNIMPLEMENTED."""
        path = handler_call_details.method
        found = self._wrapped.get(path)
        if found is None:
            return self._find(path, handler_call_details)
        door = self._doors.get(path)
        return found if door is None else door() or found

    def add(self, path: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> None:
        """Take in one wrapped handler."""
        self._wrapped[path] = handler

    def add_door(self, path: str, door: "Door") -> None:
        """Ask at each call of a method whether another handler shall serve it."""
        self._doors[path] = door

    def add_generic(self, handler: "grpc.GenericRpcHandler", wrap: Wrap) -> None:
        """Take in a handler that tells its methods only when asked."""
        self._generic.append((handler, wrap))

    def _find(
        self, path: str, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        for generic, wrap in self._generic:
            handler = generic.service(details)
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
