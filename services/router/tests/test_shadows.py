"""What waits for a shadow."""

import asyncio
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from setpoint_columns import Column, Columns, DataType
from setpoint_router.domain import plan, route, shadow
from setpoint_router.domain.work import Job, Work
from setpoint_router.service import shadows
from setpoint_router.service.coalescer import Bounds
from setpoint_runtime import clock as clocks

ROWS = 200
FIELD = route.Field("x", DataType.FLOAT64)
CONTENT = route.Content(
    name="r", model="m", weights={1: 10_000}, shadows=(shadow.Shadow(2, 1_000),)
)
SERVED = tuple(
    route.ServedVersion(version=number, inputs=(FIELD,), outputs=(FIELD,)) for number in (1, 2)
)
SERVING = plan.serving_route(route.first_revision(CONTENT, SERVED, 1))


class Source:
    """A request."""


class Stages:
    """Never done; keeps the works that it is asked to run."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Work] = asyncio.Queue()

    async def run(self, work: Work) -> None:
        self.asked.put_nowait(work)
        await asyncio.Event().wait()


class Observer:
    """Counts what is dropped."""

    def __init__(self) -> None:
        self.rows = 0

    def dropped(self, of: plan.Plan, rows: int, reason: str) -> None:
        self.rows += rows


def answered(number: int) -> Work:
    """Returns a work whose rows have been answered."""
    jobs = []
    for row in range(ROWS):
        job = Job()
        job.callers_own = None
        job.source = Source()
        job.key = job.prediction_id = f"{number} {row}"
        job.plan, job.slot, job.reason = SERVING.assign(job.key)
        job.is_given = True
        job.event_time = job.arrival_time = 1
        job.caller, job.trace, job.deadline, job.degradations = "", None, 0.0, ()
        jobs.append(job)
    made = Work.of_jobs(SERVING.plans[0], jobs)
    made.inputs = Columns(ROWS, [Column.from_numpy("x", np.arange(float(ROWS)))])
    made.statuses, made.value_times = [bytes(ROWS)], [bytes(8 * ROWS)]
    return made


async def test_copy_keeps_its_own_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that what waits for a shadow keeps nothing of the rows that are not copied."""
    stages: Any = Stages()
    observer: Any = Observer()
    copies = shadows.Shadows(
        stages=stages,
        codec=None,  # type: ignore[arg-type]  # the inputs are taken as they are
        observer=observer,
        clock=clocks.SystemClock(),
        bounds=Bounds(calls=1, rows=ROWS, queued_rows=ROWS),
        is_loaded=lambda: False,
    )
    (chooser,) = SERVING.plans[0].shadows
    wanted: list[str] = []
    sources: dict[str, weakref.ref[Source]] = {}

    def offer(number: int) -> None:
        work = answered(number)
        chosen = chooser.chosen(work.keys)[0].tolist()
        assert 0 < len(chosen) < ROWS / 4
        wanted.extend(work.keys[row] for row in chosen)
        sources.update({job.key: weakref.ref(job.source) for job in work.jobs or ()})
        copies.offer(work)

    for number in range(4):
        offer(number)
    async with asyncio.timeout(20):
        asked = await stages.asked.get()
    gc.collect()
    kept = {key for key, source in sources.items() if source() is not None}
    assert kept <= set(wanted)
    assert list(asked.primary_ids or ()) == [key for key in wanted if key.startswith("0 ")]
    expected = [float(key.split()[1]) for key in asked.primary_ids or ()]
    assert asked.inputs is not None
    assert asked.inputs["x"].to_list() == expected
    assert observer.rows == 0
    monkeypatch.setattr(shadows, "STOP_SECONDS", 0.0)
    await copies.close()
    assert observer.rows == len(wanted)
