"""Calls of shadows among replicas: what becomes of them changes nothing for anybody else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import testing
from setpoint_router.adapters import replicas
from setpoint_router.domain import outliers, plan, route, shadow
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

SECONDS = 20.0
"""Limit of what does not happen in a good run."""

INPUTS = columns_proto.to_proto(Columns(1, [Column.from_list("x", [2.0], DataType.FLOAT64)]))
MAKE: Callable[[], testing.InferenceDouble] = testing.InferenceDouble
"""The methods that it lacks are never registered."""


def plans() -> tuple[plan.Plan, plan.Plan]:
    """Returns a version that serves, and its shadow."""
    served = tuple(
        route.ServedVersion(
            version=version,
            inputs=(route.Field("x", DataType.FLOAT64),),
            outputs=(route.Field("score", DataType.FLOAT64),),
        )
        for version in (1, 2)
    )
    content = route.Content(
        name="r", model="delays", weights={1: 10_000}, shadows=(shadow.Shadow(2, 10_000),)
    )
    (found,) = plan.serving_route(route.first_revision(content, served, 1)).plans
    return found, found.shadows[0].plan


SERVING, SHADOW = plans()


class Pair:
    """Two replicas, callers' calls and shadows' calls."""

    def __init__(self, doubles: list[testing.InferenceDouble], fleet: replicas.Fleet) -> None:
        self.doubles = doubles
        self.fleet = fleet
        self.calls = replicas.ReplicatedInference(fleet, replicas.CallOptions())
        self.aside = replicas.InferenceAside(fleet)

    async def ask_shadow(self, seconds: float = SECONDS) -> list[float]:
        """Asks the shadow."""
        answer = await self.aside.predict(SHADOW, INPUTS, seconds, None)
        return list(answer.outputs["score"].to_list())


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two replicas that serve and hold both versions."""
    doubles = [MAKE() for _ in range(2)]
    servers: list[Any] = [await testing.start_inference(each) for each in doubles]
    held = [("delays", 1), ("delays", 2)]
    fleet = replicas.Fleet(
        replicas.parse(",".join(each.address for each in servers)),
        replicas.FleetOptions(ejection=outliers.Policy(failures=1)),
        clocks.SystemClock(),
        in_force=lambda: held,
    )
    async with fleet:
        async with asyncio.timeout(SECONDS):
            while not all(
                each.is_good and set(held) <= set(each.loaded) for each in fleet.replicas.values()
            ):
                await asyncio.sleep(0.005)
        yield Pair(doubles, fleet)
    for each in servers:
        await each.stop(0)


async def test_shadow_is_answered(pair: Pair) -> None:
    """A shadow's call goes to one replica and comes back; nothing of it is left."""
    assert await pair.ask_shadow() == [2_000_002.0]
    assert sum(each.asked[2] for each in pair.doubles) == 1
    assert {each.rows for each in pair.fleet.replicas.values()} == {0}


async def test_hanging_shadow_ejects_nobody(pair: Pair) -> None:
    """A replica on which a shadow hangs goes on serving, though one failure would put it out."""
    gate = asyncio.Event()
    for each in pair.doubles:
        each.gates[2] = gate
    with pytest.raises(errors.DeadlineExceededError):
        # More than a replica may keep silent, so that a caller's call would count against it.
        await pair.ask_shadow(seconds=0.6)
    gate.set()
    assert sum(each.asked[2] for each in pair.doubles) == 1
    assert not any(each.standing.is_out for each in pair.fleet.replicas.values())
    answer = await pair.calls.predict(SERVING, INPUTS, SECONDS, None)
    assert list(answer.outputs["score"].to_list()) == [1_000_002.0]


async def test_failing_shadow_is_not_repeated(pair: Pair) -> None:
    """What could go well elsewhere is tried once, and takes nothing from the callers' budget."""
    for each in pair.doubles:
        each.version_errors[2] = errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "loading")
    with pytest.raises(errors.UnavailableError):
        await pair.ask_shadow()
    assert sum(each.asked[2] for each in pair.doubles) == 1
    assert pair.calls.retries == 0


async def test_busy_shadow_counts_as_load(pair: Pair) -> None:
    """Callers' calls keep away from where a shadow is busy."""
    gate = asyncio.Event()
    for each in pair.doubles:
        each.gates[2] = gate
    asked = asyncio.create_task(pair.ask_shadow())
    async with asyncio.timeout(SECONDS):
        while not any(each.asked[2] for each in pair.doubles):
            await asyncio.sleep(0.005)
    assert sum(each.rows for each in pair.fleet.replicas.values()) == 1
    gate.set()
    assert await asked == [2_000_002.0]


async def test_aside_loads_nothing(pair: Pair) -> None:
    """A version is made ready by whoever changes a route."""
    with pytest.raises(errors.UnimplementedError):
        await pair.aside.load("delays", 2)
