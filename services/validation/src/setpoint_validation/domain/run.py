"""A judged table."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import setpoint_rules as rules
from setpoint_columns import Columns
from setpoint_runtime import errors

MAX_FAILING_ROWS = 1_000
"""Most failing rows that are named for one rule; counts stay exact."""
MAX_FAILING_ROWS_OF_RUN = 500_000
"""Most failing rows that are named for all rules together: a run has to fit a message."""
MAX_MESSAGE_LENGTH = 1_000
"""Longest explanation of one result in characters."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a suite said about a table."""

    run_id: str
    suite: str
    suite_version: str
    source: str
    passed: bool
    rows: int
    results: tuple[rules.RuleResult, ...]
    create_time: int


class GivenUpError(Exception):
    """Nobody waits for the result any more."""


def columns_of(listed: Sequence[rules.Rule]) -> frozenset[str]:
    """Return the columns that rules look at."""
    return frozenset(name for rule in listed for name in _columns(rule))


def _columns(rule: rules.Rule) -> Iterator[str]:
    if isinstance(rule, rules.Unique):
        yield from rule.columns
    elif rule.subject:
        yield rule.subject


def judge(
    listed: Sequence[rules.Rule], columns: Columns, is_given_up: Callable[[], bool]
) -> tuple[rules.RuleResult, ...]:
    """Judge a whole table by rules, one after the other.

    Args:
        listed: Rules with ids.
        columns: The columns that they look at.
        is_given_up: Asked before each rule, since a large table takes seconds for each.

    Raises:
        GivenUpError: It said yes.
    """
    named = min(MAX_FAILING_ROWS, MAX_FAILING_ROWS_OF_RUN // max(1, len(listed)))
    results = []
    for rule in listed:
        if is_given_up():
            raise GivenUpError
        (result,) = rules.compile([rule]).evaluate(columns)
        results.append(_shortened(result, named))
    return tuple(results)


def _shortened(result: rules.RuleResult, named: int) -> rules.RuleResult:
    message = result.message
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 1] + "…"
    # A copy, because a view would keep all the failing rows in memory.
    failing = result.failing_rows[:named].copy()
    return dataclasses.replace(result, failing_rows=failing, message=message)


def passes(results: Sequence[rules.RuleResult]) -> bool:
    """Say whether no rule that rejects is broken."""
    return all(each.success or each.severity is not rules.Severity.REJECT for each in results)


def not_found(run_id: str) -> errors.NotFoundError:
    """Return the error for a run that does not exist."""
    return errors.NotFoundError(
        errors.Reason.VALIDATION_RUN_NOT_FOUND,
        f"there is no validation run {run_id[:80]!r}",
        metadata={"run_id": run_id[:80]},
    )
