import contextlib
from collections.abc import AsyncIterator

from setpoint_devstack import health
from setpoint_rpc import channel
from setpoint_rpc import server as rpc_server
from setpoint_runtime import clock as clocks
from setpoint_runtime import settings as service_settings
from setpoint_testkit import serving


async def test_serves_a_wiring_on_a_free_port(serve: serving.Serve) -> None:
    """The wiring gets its settings, the server and the clock; the server is ready meanwhile."""
    seen: list[object] = []
    clock = clocks.ManualClock(0)

    @contextlib.asynccontextmanager
    async def build(
        settings: service_settings.ServiceSettings, server: rpc_server.Server, clock: clocks.Clock
    ) -> AsyncIterator[None]:
        seen.append((settings.log_level, server, clock))
        yield
        seen.append("closed")

    settings = service_settings.ServiceSettings(log_level="ERROR", port=1)
    async with (
        serve(build, settings, clock=clock) as server,
        serve(build, settings, clock=clock) as other,
    ):
        assert seen[0] == ("ERROR", server, clock)
        assert server.address != other.address
        assert await health.is_serving(server.address)
    assert seen[-1] == "closed"
    assert not await health.is_serving(server.address)


async def test_calls_have_time_while_anything_is_served(serve: serving.Serve) -> None:
    """Calls that name no time get one that a busy machine does not need; afterwards all is as before."""

    @contextlib.asynccontextmanager
    async def build(*_: object) -> AsyncIterator[None]:
        yield

    before = channel.DEFAULT_SECONDS, dict(channel.METHOD_SECONDS), dict(channel.SERVICE_SECONDS)
    settings = service_settings.ServiceSettings(log_level="ERROR")
    first, second = (contextlib.AsyncExitStack() for _ in range(2))
    for each in (first, second):
        await each.enter_async_context(serve(build, settings))
    for each in (first, second):
        assert (channel.DEFAULT_SECONDS, channel.METHOD_SECONDS) == (serving.CALL_SECONDS, {})
        await each.aclose()
    assert before == (channel.DEFAULT_SECONDS, channel.METHOD_SECONDS, channel.SERVICE_SECONDS)
