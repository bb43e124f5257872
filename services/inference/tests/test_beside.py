"""What happens to callers of one version while something else goes on: other loads, callers who leave."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from setpoint_artifacts import onnx_model
from setpoint_artifacts import testing as artifacts
from setpoint_columns.dtypes import DataType
from setpoint_inference.adapters import artifact_cache, registry_versions
from setpoint_inference.domain import cost
from setpoint_inference.service import opening
from setpoint_inference.testing import FakeRegistry, floats, predict_request
from setpoint_scoring import onnx_engine

X = ("X", DataType.FLOAT32, ("a", "b"))
SCORE = ("score", DataType.FLOAT32, ("score",))
ROW = floats({"a": [1.0], "b": [2.0]})
SECONDS = 20.0
"""Far more than anything here takes."""

STAGES = {
    "manifest kept": (artifact_cache.ArtifactCache, "put_manifest"),
    "cache read": (artifact_cache.ArtifactCache, "artifact"),
    "hashed": (registry_versions, "_verify"),
    "artifact kept": (artifact_cache.ArtifactCache, "put_artifact"),
    "inspected": (onnx_model, "inspect"),
    "opened": (onnx_engine.OnnxEngine, "open"),
    "warmed up": (cost, "measure"),
    "compared": (opening, "_compare"),
}


def add_linear(registry: FakeRegistry, version: int) -> None:
    """Register `score = a + 2 b + version`."""
    registry.add("linear", version, artifacts.linear(bias=float(version)), [X], [SCORE])


class Held:
    """A stage of a load that does not end before it is let go."""

    def __init__(self, place: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.threads: set[int] = set()
        stage = getattr(place, name)

        def held(*given: Any, **named: Any) -> Any:
            self.threads.add(threading.get_ident())
            self.begun.set()
            if not self.may_end.wait(SECONDS):
                raise AssertionError("nobody was answered meanwhile")
            return stage(*given, **named)

        monkeypatch.setattr(place, name, held)


@pytest.mark.parametrize("stage", STAGES)
async def test_load_holds_nobody_up(
    start: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a load stands still in any of its stages, the version that traffic leaves is answered, by the
    only thread there is: no stage is on the event loop, takes the pool, or locks what answers
    (tensorflow/serving#1866, triton#8587).
    """
    async with start(threads=1, inline_microseconds=0) as inference:
        add_linear(inference.registry, 1)
        add_linear(inference.registry, 2)
        await inference.load("linear", 1)
        held = Held(*STAGES[stage], monkeypatch)
        swap = asyncio.create_task(inference.load("linear", 2))
        assert await asyncio.to_thread(held.begun.wait, SECONDS)
        answers = [await inference.predict("linear", 1, ROW) for _ in range(5)]
        assert [each.to_rows() for each in answers] == [[{"score": 6.0}]] * 5
        assert not swap.done()
        assert threading.get_ident() not in held.threads
        held.may_end.set()
        await swap
        assert (await inference.predict("linear", 2, ROW)).to_rows() == [{"score": 7.0}]


async def test_abort_stops_no_thread_and_loads_nothing_anew(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers who hang up, waiting or running, cost no worker and no load
    (pytorch/serve#1888, #3168, #1815).
    """
    async with start(threads=1, inline_microseconds=0) as inference:
        add_linear(inference.registry, 1)
        before = await inference.load("linear", 1)
        ran = Ran(monkeypatch)
        for _ in range(3):
            ran.gate.clear()
            calls = [
                asyncio.ensure_future(
                    inference.stub.Predict(predict_request("linear", 1, ROW), timeout=SECONDS)
                )
                for _ in range(8)
            ]
            await inference.until_taken(len(calls))
            for call in calls:
                call.cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended)
            ran.gate.set()
            await inference.until_taken(0)
        assert (await inference.predict("linear", 1, ROW)).to_rows() == [{"score": 6.0}]
        [after] = await inference.listed()
        assert len(ran.threads) == 1
    assert after.ready_time == before.ready_time
    assert (inference.registry.lookups, inference.registry.downloads) == (1, 1)


class Ran:
    """Where runs happen; none ends before the gate is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        run = onnx_engine.OnnxRunner.run

        def noted(*given: Any) -> Any:
            self.threads.add(threading.get_ident())
            assert self.gate.wait(SECONDS)
            return run(*given)

        monkeypatch.setattr(onnx_engine.OnnxRunner, "run", noted)


async def test_late_answer_of_an_aborted_call_reaches_nobody(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run says after its caller has left is not the answer of whoever comes next."""
    async with start(threads=1, inline_microseconds=0) as inference:
        add_linear(inference.registry, 1)
        await inference.load("linear", 1)
        ran = Ran(monkeypatch)
        ran.gate.clear()
        rows = floats({"a": np.full(3, 9.0), "b": np.zeros(3)})
        left = asyncio.ensure_future(
            inference.stub.Predict(predict_request("linear", 1, rows), timeout=SECONDS)
        )
        await inference.until_taken(1)
        left.cancel()
        next_one = asyncio.create_task(inference.predict("linear", 1, ROW))
        await inference.until_taken(2)
        ran.gate.set()
        assert (await next_one).to_rows() == [{"score": 6.0}]
