"""What calls leave behind is freed with them, not by the collector, whose pauses hold everybody up."""

import asyncio
import gc
from typing import Any

import pytest

from setpoint_rpc import channel, testing
from setpoint_runtime import errors


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def _fail(request: bytes, _: Any) -> bytes:
    raise errors.NotFoundError(errors.Reason.RUN_NOT_FOUND, "no run")


async def _garbage_of(calls: int, behaviour: Any) -> int:
    """Returns how many objects some calls leave to the collector."""
    async with (
        testing.serve(testing.unary("Call", behaviour)) as served,
        channel.connect(served.address, client="tester") as opened,
    ):
        call = opened.unary_unary(testing.path("Call"))

        async def ask() -> None:
            await asyncio.gather(
                *(call(b"x", timeout=30) for _ in range(calls)), return_exceptions=True
            )

        await ask()
        gc.collect()
        gc.disable()
        try:
            await ask()
            return gc.collect()
        finally:
            gc.enable()


@pytest.mark.parametrize("behaviour", [_echo, _fail])
async def test_calls_leave_no_cycles(behaviour: Any) -> None:
    """Twice the calls leave no more than what the client leaves of its own."""
    few, many = await _garbage_of(10, behaviour), await _garbage_of(210, behaviour)
    assert many - few < 100
