"""Every RPC in the contracts is implemented, by a coroutine.

The types of generated servicers admit plain methods, so a forgotten ``async`` passes the type
checker, and a forgotten method only shows when somebody calls it.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf import descriptor

import setpoint
from setpoint_oip.protocol import open_inference_pb2, open_inference_pb2_grpc


def published() -> dict[str, descriptor.ServiceDescriptor]:
    """Finds each service of the contracts, by its full name."""
    found: dict[str, descriptor.ServiceDescriptor] = {}
    for module in pkgutil.walk_packages(setpoint.__path__, "setpoint."):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(module.name).DESCRIPTOR
            found |= {service.full_name: service for service in file.services_by_name.values()}
    return found


def implementations(service: str, base: type[Any]) -> list[type[Any]]:
    """Finds the classes that implement a service, in the member that its package names."""
    package = f"setpoint_{service.split('.')[1]}"
    return [found for found in classes(package) if base in found.__mro__[1:]]


def generated_servicers() -> Iterator[tuple[str, type[Any]]]:
    """Yields each service's full name with its generated base class."""
    for full_name, service in published().items():
        stub = service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc"
        yield full_name, getattr(importlib.import_module(stub), f"{service.name}Servicer")


def classes(package: str) -> Iterator[type[Any]]:
    """Yields the classes that a service's modules of servicers define."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if "servicer" in module.name.rsplit(".", 1)[-1]:
            loaded = importlib.import_module(module.name)
            for _, found in inspect.getmembers(loaded, inspect.isclass):
                if found.__module__ == loaded.__name__:
                    yield found


def test_open_inference_protocol_is_implemented_by_coroutines() -> None:
    """Proves that router and inference answer every method of the published protocol."""
    base = open_inference_pb2_grpc.GRPCInferenceServiceServicer
    service = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for member in ("router", "inference"):
        [found] = [each for each in classes(f"setpoint_{member}") if base in each.__mro__[1:]]
        for method in service.methods:
            handler = getattr(found, method.name)
            assert handler is not getattr(base, method.name), f"{method.name} is missing"
            assert is_asynchronous(handler, method.server_streaming)


def is_asynchronous(method: Callable[..., Any], streams_answers: bool) -> bool:
    """Tells whether a handler is a coroutine, or for a stream of answers may be a generator."""
    if inspect.iscoroutinefunction(method):
        return True
    return streams_answers and inspect.isasyncgenfunction(method)


@pytest.mark.parametrize("service", sorted(published()))
def test_service_is_implemented_by_coroutines(service: str) -> None:
    """Proves that one class answers each RPC of the service, without blocking the loop."""
    base = dict(generated_servicers())[service]
    found = implementations(service, base)
    assert len(found) == 1, f"{service} is implemented by {found}"
    for method in published()[service].methods:
        handler = getattr(found[0], method.name)
        assert handler is not getattr(base, method.name), f"{method.name} is missing"
        assert is_asynchronous(handler, method.server_streaming), f"{method.name} is not async"
