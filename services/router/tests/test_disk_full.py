"""A full disk: what happens to predictions is what their route says, loudly, and it heals."""

import asyncio
import contextlib
import errno
import os
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_router.adapters.spool import writer
from setpoint_rpc import channel
from setpoint_runtime import errors

Value = value_pb2.Value
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}


async def test_disk_full_policies(
    router: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Shows that without room a route refuses or answers flagged, as it says, until there is room."""
    policy = route_pb2.SPOOL_FULL_POLICY_ANSWER_UNRECORDED
    await router.create("loose", spool_full_policy=policy)
    real, is_full = os.write, True

    def write(handle: int, data: Any) -> int:
        if is_full and threading.current_thread().name == "spool":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.predict(inputs=GIVEN, timeout=20)
        error = channel.from_rpc_error(caught.value)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.reason is errors.Reason.SPOOL_FULL
        assert error.retry_after_seconds
        answer = await router.predict("loose", inputs=GIVEN, timeout=20)
        flags = [each.kind for each in answer.degradations]
        assert flags == [router_service_pb2.DEGRADATION_KIND_UNRECORDED]
    assert "No space left on device" in caplog.text
    sample = router.server.metrics_registry.get_sample_value
    assert sample("setpoint_router_spool_write_failures_total", {"kind": "OSError"}) >= 1
    assert sample("setpoint_router_unrecorded_total") >= 3
    is_full = False
    answer = None
    async with asyncio.timeout(20):
        while answer is None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await router.predict(inputs=GIVEN, timeout=20)
            await asyncio.sleep(0.01)
        while answer.prediction_id not in router.peers.ingest.ids:
            await asyncio.sleep(0.01)
    assert not answer.degradations
