import asyncio
import types
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from setpoint_columns import Columns, DataType
from setpoint_feature import ports, testing
from setpoint_feature.domain import definitions, plan
from setpoint_feature.service import writing
from setpoint_feature.testing import NOW, Start
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

VIEW = plan.CompiledView(
    definitions.FeatureView("totals", "all", (definitions.Field("total", DataType.INT64),)), 1
)


class History:
    """Takes batches when it is told to, and remembers which ones came together."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.may_go = asyncio.Event()
        self.failure: Exception | None = None
        self.last = 0

    async def write(
        self, view: int, entries: Sequence[ports.Entry]
    ) -> list[ports.Written | errors.AlreadyExistsError]:
        await self.may_go.wait()
        self.groups.append([each.batch_id for each in entries])
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        outcomes: list[ports.Written | errors.AlreadyExistsError] = []
        for each in entries:
            if each.batch_id == IDS[2]:
                text = "written before"
                outcomes.append(errors.AlreadyExistsError(errors.Reason.REQUEST_ID_REUSED, text))
                continue
            outcomes.append(ports.Written(self.last + 1, self.last + len(each.rows), False))
            self.last += len(each.rows)
        return outcomes


class Online:
    """Remembers in which order batches came."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    async def apply(
        self, version: str, values: Mapping[bytes, bytes], after: int, upto: int
    ) -> int:
        # Those behind would overtake if they could.
        await asyncio.sleep(0)
        self.spans.append((after, upto))
        return len(values)


IDS = [testing.request_id() for _ in range(6)]


def make() -> tuple[writing.Writer, History, Online]:
    history, online = History(), Online()

    async def find(look_up: Any) -> plan.CompiledView:
        return VIEW

    catalog = types.SimpleNamespace(aggregates_of=lambda source: [])
    known: Any = types.SimpleNamespace(find=find, wrote=lambda view, last: None, catalog=catalog)
    stores = cast(ports.HistoryStore, history), cast(ports.OnlineStore, online)
    clock = clocks.ManualClock(NOW)
    return writing.Writer(*stores, known, clock, 0), history, online


async def begin(writer: writing.Writer, *numbers: int) -> list[asyncio.Task[writing.WriteResult]]:
    """Starts to store batches, in order, as far as they get."""
    times = (DataType.TIMESTAMP, [NOW])
    rows = Columns.from_dict({"event_time": times, "total": (DataType.INT64, [1])})
    tasks = []
    for number in numbers:
        prepared = await writer.prepare(writing.Order(IDS[number], "totals", rows))
        tasks.append(asyncio.create_task(writer.store(prepared)))
        await asyncio.sleep(0)
    return tasks


async def test_batches_that_wait_are_stored_together() -> None:
    """What came while one was stored is stored in one go, in its order, and each is answered for itself."""
    writer, history, online = make()
    tasks = await begin(writer, 0, 1, 2, 3)
    history.may_go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)

    assert history.groups == [IDS[:1], IDS[1:4]]
    assert isinstance(found[2], errors.AlreadyExistsError)
    assert [getattr(each, "rows_written", None) for each in found] == [1, 1, None, 1]
    assert online.spans == [(0, 1), (1, 2), (2, 3)]


async def test_one_who_leaves_takes_nobody_along() -> None:
    """A caller who gives up while all are stored, or while it waits, costs the others nothing."""
    writer, history, online = make()
    tasks = await begin(writer, 0, 1, 3, 4)
    tasks[0].cancel()
    tasks[2].cancel()
    await asyncio.sleep(0)
    history.may_go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(each, asyncio.CancelledError) for each in found] == [True, False] * 2
    assert history.groups == [[IDS[1], IDS[4]]]
    assert online.spans == [(0, 1), (1, 2)]


async def test_failure_of_a_group_is_no_end() -> None:
    """When storing fails the one who stored is told, and the others try for themselves."""
    writer, history, _ = make()
    tasks = await begin(writer, 0, 1, 3)
    history.failure = errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "away")
    history.may_go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(found[0], errors.UnavailableError)
    assert history.groups == [[IDS[0]], [IDS[1], IDS[3]]]


async def test_group_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction is not made too large."""
    monkeypatch.setattr(writing, "GROUP_ROWS", 2)
    writer, history, _ = make()
    tasks = await begin(writer, 0, 1, 3, 4, 5)
    history.may_go.set()
    await asyncio.gather(*tasks)

    assert history.groups == [[IDS[0]], [IDS[1], IDS[3]], [IDS[4], IDS[5]]]


async def test_same_batch_twice_at_once(start: Start, feature_url: str) -> None:
    """Copies of a batch that are stored together are one batch and replays of it."""
    rows = Columns.from_dict(
        {"event_time": (DataType.TIMESTAMP, [NOW]), "total": (DataType.INT64, [3])}
    )
    async with start() as running:
        client = running.client
        await client.entity("all")
        await client.view("totals", "all", [("total", DataType.INT64)])
        await client.feature_set("totals", [testing.reference("totals", "total")])
        found = await asyncio.gather(
            *(client.write("totals", rows, IDS[number % 2]) for number in range(20))
        )
        read = await client.online("totals", Columns(1))

    assert sorted(each.replayed for each in found) == [False] * 2 + [True] * 18
    assert {each.rows_written for each in found} == {1}
    assert read.values["total"] == [3]
