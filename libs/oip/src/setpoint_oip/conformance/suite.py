"""Runs the checks and reports."""

import enum
from collections.abc import Iterable
from typing import NamedTuple

import grpc.aio

from setpoint_oip.conformance import checks, refusals
from setpoint_oip.conformance.subject import AdviceError, SkippedError, Subject, WrongError


class Verdict(enum.Enum):
    """What came of a check."""

    OK = "ok"
    ADVICE = "warn"
    WRONG = "FAIL"
    SKIPPED = "skip"


class Result(NamedTuple):
    """A check and what came of it."""

    finding: str
    verdict: Verdict
    why: str = ""

    def __str__(self) -> str:
        """Return a line of the report."""
        return f"{self.verdict.value:4}  {self.finding}" + (f": {self.why}" if self.why else "")


_VERDICTS = {
    WrongError: Verdict.WRONG,
    AdviceError: Verdict.ADVICE,
    SkippedError: Verdict.SKIPPED,
}


async def run(subject: Subject) -> list[Result]:
    """Try a server; every check runs, whatever the others found."""
    every = checks.CHECKS | refusals.CHECKS
    return [await _run(finding, check, subject) for finding, check in every.items()]


async def _run(finding: str, check: checks.Check, subject: Subject) -> Result:
    try:
        await check(subject)
    except (WrongError, AdviceError, SkippedError) as error:
        return Result(finding, _VERDICTS[type(error)], str(error))
    except grpc.aio.AioRpcError as error:
        return Result(finding, Verdict.WRONG, f"{error.code().name}: {error.details()}")
    return Result(finding, Verdict.OK)


def found(results: Iterable[Result]) -> str:
    """Return the lines of what was wrong or advised against."""
    return "\n".join(
        str(each) for each in results if each.verdict in (Verdict.WRONG, Verdict.ADVICE)
    )


def is_conformant(results: Iterable[Result], *, is_strict: bool = False) -> bool:
    """Say whether nothing was wrong; with `is_strict` there was no advice either."""
    bad = {Verdict.WRONG, Verdict.ADVICE} if is_strict else {Verdict.WRONG}
    return all(result.verdict not in bad for result in results)
