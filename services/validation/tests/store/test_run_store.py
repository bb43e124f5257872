import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import setpoint_rules as rules
from setpoint_db import engine as engines
from setpoint_runtime import errors, ids
from setpoint_validation import ports, testing
from setpoint_validation.domain import suite as suites
from setpoint_validation.domain.run import Run
from setpoint_validation.store.run_store import RunStore
from setpoint_validation.store.suite_store import SuiteStore

SUITE = suites.make("s", [rules.NotNull("a")], "", "", 1)


@pytest.fixture
async def engine(migrated_url: Callable[[str], str]) -> AsyncIterator[AsyncEngine]:
    made = engines.create_engine(
        migrated_url("validation"), application_name="test", schema="validation"
    )
    await SuiteStore(made).put_suite(ports.Request(testing.request_id(), b""), SUITE)
    yield made
    await made.dispose()


def run_of(*, results: int = 1, message: str = "m") -> Run:
    result = rules.RuleResult(
        rule_id="not_null_a",
        success=False,
        severity=rules.Severity.REJECT,
        element_count=9,
        unexpected_count=3,
        missing_count=0,
        observed=None,
        failing_rows=np.array([1, 5, 7]),
        message=message,
    )
    return Run(ids.uuid7(), "s", SUITE.version, "test", False, 9, (result,) * results, 7)


async def test_add_run_once(engine: AsyncEngine) -> None:
    """Of several that judged one table at once, one run is stored and all return it."""
    store = RunStore(engine)
    request = ports.Request(testing.request_id(), b"table")
    stored = await asyncio.gather(*(store.add_run(request, run_of()) for _ in range(4)))
    assert [replayed for _, replayed in stored].count(False) == 1
    assert len({run.run_id for run, _ in stored}) == 1
    found = await store.find_run(request)
    assert found is not None
    assert repr(found) == repr(stored[0][0])
    assert len((await store.list_runs("", None, 10))[0]) == 1


async def test_find_run_of_other_table(engine: AsyncEngine) -> None:
    """An id that made a run of another table is refused; an unknown one finds nothing."""
    store = RunStore(engine)
    request = ports.Request(testing.request_id(), b"table")
    assert await store.find_run(request) is None
    assert not await store.is_known(request.request_id)
    await store.add_run(request, run_of())
    assert await store.is_known(request.request_id.upper())
    with pytest.raises(errors.AlreadyExistsError):
        await store.find_run(ports.Request(request.request_id, b"other"))


async def test_list_runs_ends_at_bytes(engine: AsyncEngine) -> None:
    """A page of large runs ends before it no longer fits a message, and the next one goes on."""
    store = RunStore(engine)
    made = []
    for _ in range(5):
        run = run_of(results=1000, message="x" * 1000)
        made.append(run.run_id)
        await store.add_run(ports.Request(testing.request_id(), b""), run)
    page, before = await store.list_runs("s", None, 100)
    assert [run.run_id for run in page] == made[:1:-1][: len(page)]
    assert 1 < len(page) < 4
    rest, end = await store.list_runs("s", before, 100)
    assert [run.run_id for run in (*page, *rest)] == made[::-1]
    assert end is None
