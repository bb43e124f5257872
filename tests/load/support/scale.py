"""What the router costs when it has done much, or serves many versions."""

from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from tests.load.support import children, loads, question

from setpoint_client import AsyncClient
from setpoint_devstack.stack import Stack

FEW, MANY = 10_000, 1_000_000
"""Predictions."""

ROWS = 1000
"""Of a batch, with which many predictions are reached sooner."""

ROUNDS = 3
SETTLE_SECONDS = 60.0
ALONE = loads.Level(1, 1)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Middle latencies of one caller, a value for each round, in milliseconds."""

    one: list[float]
    many: list[float]


def memory(house: Stack, service: str) -> int:
    """Returns the resident bytes of a service's process, without its guard."""
    guard = psutil.Process(house.pid(service))
    processes = [guard, *guard.children(recursive=True)]
    return max(each.memory_info().rss for each in processes)


async def predict_many(
    trained: question.Question, client: AsyncClient, house: Stack, predictions: int
) -> None:
    """Makes predictions in batches and waits until they are shipped."""
    request = question.given_rows(trained, ROWS)
    for _ in range(0, predictions, ROWS):
        await client.stubs.router.PredictBatch(request, timeout=question.CALL_SECONDS)
    await children.settle([house.pid(name) for name in house.logs], SETTLE_SECONDS)


async def crowd(
    trained: question.Question,
    client: AsyncClient,
    generator: loads.Generator,
    given: loads.Target,
    folder: Path,
    times: loads.Times,
) -> Crowd:
    """Measures one caller of one version, then one whose questions go to many versions."""
    one = [(await generator.put(given, ALONE, times)).p50_ms for _ in range(ROUNDS)]
    await question.publish_crowd(trained, client)
    messages = folder / "crowd"
    question.write_crowd(trained, messages)
    target = replace(given, name="many versions", messages=messages)
    # Each version is asked before it counts.
    await generator.put(target, ALONE, times)
    many = [(await generator.put(target, ALONE, times)).p50_ms for _ in range(ROUNDS)]
    return Crowd(one, many)
