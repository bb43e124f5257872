"""One work, asked of several versions at the same time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import numpy.typing as npt

from setpoint_router.domain import combination
from setpoint_router.domain.degradation import Degradation, DegradationKind
from setpoint_router.domain.ensemble import Ensemble, Member, MemberAnswer
from setpoint_router.domain.plan import Plan
from setpoint_router.domain.work import Work, assembled
from setpoint_runtime import errors

_LOGGER = logging.getLogger(__name__)

Ask = Callable[[Work], Awaitable[errors.SetpointError | None]]
"""Runs a member's work; returns why the version cannot answer at all, if that is so."""

Rows = npt.NDArray[np.intp]


async def answer(work: Work, found: Ensemble, rows: Rows, ask: Ask) -> errors.SetpointError | None:
    """Ask every member about some rows of a work, and give it their common answer.

    Rows that too few members have answered fail; those that some have not answered are flagged.

    Args:
        work: The work.
        found: The ensemble of its plan.
        rows: Positions of the rows that want an answer.
        ask: Asks one version.

    Returns:
        Why none of the rows can be answered by this ensemble now, when that is for reasons of its
        versions; then no row has failed, since another version might answer.
    """
    asked = [
        (member, _asked(work, plan))
        for member, plan in zip(found.members, work.plan.members, strict=True)
    ]
    gone = await asyncio.gather(*(_ask(found, member, each, ask) for member, each in asked))
    for error, (_, each) in zip(gone, asked, strict=True):
        if error is not None:
            each.outputs = None
            each.errors.update(dict.fromkeys(rows.tolist(), error))
        else:
            _check_outputs(each, work.plan, rows)
    work.members = members = [
        MemberAnswer(
            member,
            each.outputs,
            each.errors,
            ",".join(dict.fromkeys(name for _, name in each.replicas)),
        )
        for member, each in asked
    ]
    if len(members) - sum(error is not None for error in gone) < found.quorum:
        return _below_quorum(found, members, int(rows[0]))
    _combine(work, found, members, rows)
    return None


def _asked(work: Work, plan: Plan) -> Work:
    """Return the work of one member: the same inputs, its own answers and errors."""
    made = Work(plan, work.rows, is_given=work.is_given)
    made.deadline = work.deadline
    made.inputs = work.inputs
    made.encoded_inputs = work.encoded_inputs
    return made


async def _ask(
    found: Ensemble, member: Member, work: Work, ask: Ask
) -> errors.SetpointError | None:
    seconds = found.member_deadline_us / 1e6 or None
    try:
        async with asyncio.timeout(seconds):
            return await ask(work)
    except TimeoutError:
        return errors.UnavailableError(
            errors.Reason.INFERENCE_UNAVAILABLE,
            f"version {member.version} did not answer within {seconds:g} s",
        )
    except Exception as error:
        # A defect in what one member answers is no reason to lose the others' answers.
        _LOGGER.exception("version %d of an ensemble failed", member.version)
        return errors.InternalError(errors.Reason.INTERNAL, type(error).__name__)


def _check_outputs(asked: Work, plan: Plan, rows: Rows) -> None:
    """Take what a version answers for no answer where it lacks a column, or has another type."""
    outputs = asked.outputs
    if outputs is None:
        return
    for field in plan.version.outputs:
        column = outputs.by_name.get(field.name)
        if column is None or column.dtype is not field.dtype:
            error = errors.InternalError(
                errors.Reason.INFERENCE_FAILED,
                f"the answer has no column {field.name} of type {field.dtype.name}",
            )
            for row in rows.tolist():
                asked.fail(row, error)
            asked.outputs = None
            return


def _combine(work: Work, found: Ensemble, members: Sequence[MemberAnswer], rows: Rows) -> None:
    present = np.zeros((len(members), work.rows), np.bool_)
    present[:, rows] = True
    for at, each in enumerate(members):
        present[at, list(each.errors)] = False
    counts = present[:, rows].sum(axis=0)
    enough = rows[counts >= found.quorum]
    for row in rows[counts < found.quorum].tolist():
        work.fail(row, _refused(members, row) or _below_quorum(found, members, row))
    if not len(enough):
        return
    for each in members:
        flag = Degradation(DegradationKind.ENSEMBLE_PARTIAL, str(each.member.version))
        for row in enough.tolist() if each.errors else ():
            if row in each.errors:
                work.flag(row, flag)
    answers = [each.outputs for each in members]
    if len(enough) < work.rows:
        answers = [None if each is None else each.take(enough) for each in answers]
    combined = combination.combine(found, work.plan.version.outputs, answers, present[:, enough])
    work.outputs = assembled([(enough, combined)], work.rows)


def _refused(members: Sequence[MemberAnswer], row: int) -> errors.SetpointError | None:
    """Return what a member has against the row itself: waiting would not help then."""
    for each in members:
        error = each.errors.get(row)
        if isinstance(error, errors.InvalidArgumentError):
            return error
    return None


def _below_quorum(
    found: Ensemble, members: Sequence[MemberAnswer], row: int
) -> errors.SetpointError:
    missing = {each.member.version: each.errors[row] for each in members if row in each.errors}
    why = "; ".join(f"version {version}: {error.message}" for version, error in missing.items())
    return errors.UnavailableError(
        errors.Reason.ENSEMBLE_BELOW_QUORUM,
        f"{len(members) - len(missing)} of {len(members)} members answered, {found.quorum} "
        f"must: {why}",
        metadata={str(version): error.reason.value for version, error in missing.items()},
    )
