import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from setpoint.inference.v1 import inference_service_pb2_grpc
from setpoint_inference import config, testing, wiring
from setpoint_rpc import channel
from setpoint_rpc import server as servers
from setpoint_testkit.serving import Serve

Start = Callable[..., AbstractAsyncContextManager[testing.Inference]]


@pytest.fixture
async def fake_registry() -> AsyncIterator[tuple[testing.FakeRegistry, str]]:
    """A registry that serves from memory, and its address."""
    fake = testing.FakeRegistry()
    server = servers.Server("registry")
    server.add(testing.add_to_server, fake, testing.REGISTRY)
    await server.start()
    await server.set_ready(True)
    try:
        yield fake, server.address
    finally:
        await server.stop(0)


@pytest.fixture
def start(serve: Serve, fake_registry: tuple[testing.FakeRegistry, str], tmp_path: Path) -> Start:
    """A function that serves inference with some settings for the length of a block."""
    fake, address = fake_registry

    @contextlib.asynccontextmanager
    async def started(**settings: Any) -> AsyncIterator[testing.Inference]:
        made = config.InferenceSettings(
            registry_address=address, cache_directory=str(tmp_path / "cache"), **settings
        )
        async with (
            serve(wiring.build, made) as server,
            channel.connect(server.address, client="test") as opened,
        ):
            stub = inference_service_pb2_grpc.InferenceServiceStub(opened)

            def taken() -> float | None:
                return server.metrics_registry.get_sample_value("setpoint_inference_pool_taken")

            yield testing.Inference(stub, fake, opened, server.address, taken)

    return started


@pytest.fixture
async def inference(start: Start) -> AsyncIterator[testing.Inference]:
    """Inference with default settings."""
    async with start() as served:
        yield served
