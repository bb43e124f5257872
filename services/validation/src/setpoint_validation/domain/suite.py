"""Suites of rules, and what is pushed of them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import setpoint_rules as rules
from setpoint_runtime import errors, names
from setpoint_validation.domain import text

MAX_SUITE_BYTES = 1024 * 1024
"""Largest suite as a message."""
MAX_PUSHED_BYTES = 3 * 1024 * 1024
"""Largest sum of the suites that are bound to feature sets: they travel to routers in one message, which may
have 4 MiB."""

_VERSION = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Suite:
    """Rules for one feature set or table."""

    name: str
    version: str
    """Hash of the rules and the binding; the description is not part of it."""
    rules: tuple[rules.Rule, ...]
    """Every one has an id."""
    feature_set: str
    """Requests for this feature set are judged by the row rules; empty: the suite is for batches alone."""
    description: str
    create_time: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The row rules of every suite that is bound to a feature set, at one moment."""

    revision: int
    """Changes with the rules."""
    suites: tuple[Suite, ...]


def make(
    name: str, listed: Sequence[rules.Rule], feature_set: str, description: str, now: int
) -> Suite:
    """Return a suite of rules that fit together.

    Raises:
        InvalidArgumentError: Names the field, and the rule where it is one.
    """
    names.check_name("suite.name", name)
    if feature_set:
        names.check_name("suite.feature_set", feature_set)
    text.check("suite.description", description)
    if not listed:
        # It would let everything pass, which nobody writes down on purpose.
        raise errors.invalid(
            "suite.rules", [], "must hold at least one rule", errors.Reason.MISSING_FIELD
        )
    try:
        compiled = rules.compile(listed).rules
    except errors.InvalidArgumentError as error:
        raise _within_suite(error) from None
    version = rules.content_hash(compiled, feature_set)
    return Suite(name, version, compiled, feature_set, description, now)


def _within_suite(error: errors.InvalidArgumentError) -> errors.InvalidArgumentError:
    """Return an error about a list of rules with its path in the request."""
    return errors.InvalidArgumentError(
        error.reason,
        f"suite.{error.message}",
        violations=[
            errors.FieldViolation(f"suite.{each.field}", each.description)
            for each in error.violations
        ],
        metadata={"field": f"suite.{error.metadata.get('field', 'rules')}"},
    )


def row_rules(suite: Suite) -> tuple[rules.RowRule, ...]:
    """Return the rules that single requests are judged by."""
    return tuple(rule for rule in suite.rules if isinstance(rule, rules.RowRule))


def check_siblings(suite: Suite, siblings: Iterable[Suite]) -> None:
    """Check that ids tell apart the row rules that judge the same requests.

    Predictions keep the ids of the rules they broke, so an id has to name one rule of a feature set.

    Args:
        suite: The suite that shall be stored.
        siblings: The others that are bound to the same feature set.

    Raises:
        AlreadyExistsError: NAME_TAKEN, naming the rule and the suite that has it already.
    """
    taken = {rule.rule_id: sibling.name for sibling in siblings for rule in row_rules(sibling)}
    for index, rule in enumerate(suite.rules):
        owner = taken.get(rule.rule_id)
        if owner is None or not isinstance(rule, rules.RowRule):
            continue
        field = f"suite.rules[{index}].rule_id"
        description = (
            f"{rule.rule_id!r} names a rule of the suite {owner!r} already,"
            f" which is bound to the feature set {suite.feature_set!r} too; give it another id"
        )
        raise errors.AlreadyExistsError(
            errors.Reason.NAME_TAKEN,
            f"{field}: {description}",
            violations=(errors.FieldViolation(field, description),),
            metadata={"field": field, "rule_id": rule.rule_id, "suite": owner},
        )


def check_pushed(total: int) -> None:
    """Check that all that is pushed to routers fits one message.

    Args:
        total: Bytes of every suite that would be bound to a feature set.

    Raises:
        FailedPreconditionError: TOO_LARGE.
    """
    if total > MAX_PUSHED_BYTES:
        raise errors.FailedPreconditionError(
            errors.Reason.TOO_LARGE,
            f"suite: all suites bound to feature sets would have {total} bytes, must be at most"
            f" {MAX_PUSHED_BYTES}; shorten sets, or leave suites for batches unbound",
            metadata={"field": "suite", "bytes": str(total)},
        )


def is_version(version: str) -> bool:
    """Say whether a text could be the version of a suite."""
    return _VERSION.fullmatch(version) is not None


def not_found(name: str, version: str = "") -> errors.NotFoundError:
    """Return the error for a suite, or a version of it, that does not exist."""
    what = f"suite {name!r}" + (f" of version {version[:80]!r}" if version else "")
    metadata = {"suite": name[:80]} | ({"version": version[:80]} if version else {})
    return errors.NotFoundError(
        errors.Reason.SUITE_NOT_FOUND, f"there is no {what}", metadata=metadata
    )
