"""Members asked at the same time, without a network."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from setpoint_columns import Column, Columns, DataType
from setpoint_router.domain import plan, route
from setpoint_router.domain.ensemble import Combination, Ensemble, Member
from setpoint_router.domain.work import Work
from setpoint_router.service import ensemble
from setpoint_runtime import errors

Answer = Callable[[Work], Any]


def made(*, quorum: int, deadline_us: int = 0) -> plan.Plan:
    """Returns the plan of an ensemble of versions 1, 2 and 3."""
    served = tuple(
        route.ServedVersion(
            version=version,
            inputs=(route.Field("x", DataType.FLOAT64),),
            outputs=(route.Field("y", DataType.FLOAT64),),
        )
        for version in (1, 2, 3)
    )
    together = Ensemble(
        tuple(Member(each.version) for each in served), Combination.MEAN, quorum, deadline_us
    )
    content = route.Content(name="r", model="m", weights={}, ensemble=together)
    return plan.serving_route(route.first_revision(content, served, 1)).plans[0]


def work_of(of: plan.Plan, rows: int) -> Work:
    """Returns a work with inputs."""
    found = Work(of, rows, is_given=True)
    found.inputs = Columns(rows, [Column.from_numpy("x", np.arange(rows, dtype=np.float64))])
    found.deadline = 5.0
    return found


def says(work: Work, value: float) -> None:
    """Lets a member answer every row with a value."""
    work.outputs = Columns(work.rows, [Column.from_numpy("y", np.full(work.rows, value))])


async def asked(
    of: plan.Plan, rows: int, answers: dict[int, Answer]
) -> tuple[Work, errors.SetpointError | None]:
    """Returns a work that was asked of members, and why none could answer."""
    work = work_of(of, rows)
    assert of.ensemble is not None

    async def ask(member: Work) -> errors.SetpointError | None:
        found = answers[member.plan.version.version](member)
        if found is not None:
            await found
        return None

    gone = await ensemble.answer(work, of.ensemble, np.arange(rows), ask)
    return work, gone


async def forever(_: Work) -> None:
    """Never answers."""
    await asyncio.Event().wait()


async def test_members_are_asked_at_the_same_time() -> None:
    """No member waits for another one."""
    waiting = 0
    everybody = asyncio.Event()

    async def meet(member: Work) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            everybody.set()
        await everybody.wait()
        says(member, 1.0)

    async with asyncio.timeout(20):
        work, gone = await asked(made(quorum=3), 2, dict.fromkeys((1, 2, 3), meet))
    assert gone is None
    assert work.outputs is not None
    assert work.outputs["y"].to_list() == [1.0, 1.0]
    assert not work.degradations


async def test_deadline_leaves_a_member_out() -> None:
    """A member that hangs is given up at its deadline; those that answered count."""
    answers: dict[int, Answer] = {1: lambda m: says(m, 1.0), 2: forever, 3: lambda m: says(m, 3.0)}
    work, gone = await asked(made(quorum=2, deadline_us=1_000), 1, answers)
    assert gone is None
    assert work.outputs is not None
    assert work.outputs["y"].to_list() == [2.0]
    assert [each.subject for each in work.degradations_of(0)] == ["2"]


async def test_hanging_members_are_gone() -> None:
    """When too few answer by the deadline, another version might: no row has failed yet."""
    answers: dict[int, Answer] = {1: lambda m: says(m, 1.0), 2: forever, 3: forever}
    work, gone = await asked(made(quorum=2, deadline_us=1_000), 1, answers)
    assert gone is not None
    assert gone.reason is errors.Reason.ENSEMBLE_BELOW_QUORUM
    assert gone.metadata == dict.fromkeys("23", "INFERENCE_UNAVAILABLE")
    assert not work.errors
    assert work.members is not None


async def test_quorum_is_counted_by_row() -> None:
    """Rows that enough members answered are answered, the others fail."""
    error = errors.InternalError(errors.Reason.INFERENCE_FAILED, "no")

    def fails(*rows: int) -> Answer:
        def answer(member: Work) -> None:
            says(member, float(member.plan.version.version))
            for row in rows:
                member.fail(row, error)

        return answer

    work, gone = await asked(made(quorum=2), 4, {1: fails(0, 1), 2: fails(1), 3: fails(2)})
    assert gone is None
    assert work.outputs is not None
    assert work.outputs["y"].to_list() == [2.5, None, 1.5, 2.0]
    assert set(work.errors) == {1}
    assert work.errors[1].metadata == dict.fromkeys("12", "INFERENCE_FAILED")
    flags = {row: [each.subject for each in found] for row, found in work.degradations.items()}
    assert flags == {0: ["1"], 2: ["3"]}


async def test_defect_of_one_member_spares_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw in one member is logged, and it is missing."""

    def breaks(_: Work) -> None:
        raise ValueError("defect")

    answers: dict[int, Answer] = {1: breaks, 2: lambda m: says(m, 2.0), 3: lambda m: says(m, 4.0)}
    work, gone = await asked(made(quorum=1), 1, answers)
    assert gone is None
    assert work.outputs is not None
    assert work.outputs["y"].to_list() == [3.0]
    assert "version 1 of an ensemble failed" in caplog.text


async def test_other_columns_are_no_answer() -> None:
    """A member that answers something else is missing rather than mixed in."""

    def strange(member: Work) -> None:
        member.outputs = Columns.from_dict({"y": (DataType.INT64, [7])})

    answers: dict[int, Answer] = {1: strange, 2: lambda m: says(m, 2.0), 3: lambda m: says(m, 4.0)}
    work, _ = await asked(made(quorum=2), 1, answers)
    assert work.outputs is not None
    assert work.outputs["y"].to_list() == [3.0]
    assert [each.subject for each in work.degradations_of(0)] == ["1"]


async def test_take_keeps_what_members_said() -> None:
    """A record that is cut in two keeps each row's members in its half."""
    error = errors.InternalError(errors.Reason.INFERENCE_FAILED, "no")

    def answer(member: Work) -> None:
        member.outputs = Columns(3, [Column.from_numpy("y", np.arange(3, dtype=np.float64))])
        if member.plan.version.version == 2:
            member.fail(1, error)

    work, _ = await asked(made(quorum=1), 3, dict.fromkeys((1, 2, 3), answer))
    half = [each.take([1, 2]) for each in work.members or ()]
    assert [set(each.errors) for each in half] == [set(), {0}, set()]
    assert half[0].outputs is not None
    assert half[0].outputs["y"].to_list() == [1.0, 2.0]
