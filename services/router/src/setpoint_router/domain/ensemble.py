"""Ensembles: several versions that are asked together and answer as one."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from setpoint_columns import Columns
from setpoint_router.domain import assignment
from setpoint_runtime import errors

VERSION = 0
"""What an ensemble's answers are attributed to; versions count from 1."""

MIN_MEMBERS = 2
MAX_MEMBERS = 16
MAX_WEIGHT = 10_000


class Combination(enum.IntEnum):
    """How answers become one; the numbers are the contract's."""

    MEAN = 1
    WEIGHTED_MEAN = 2
    VOTE = 3


@dataclass(frozen=True, slots=True)
class Member:
    """A version and its weight relative to the others'."""

    version: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Versions that answer together."""

    members: tuple[Member, ...]
    combination: Combination
    quorum: int
    """How many must answer a row."""
    member_deadline_us: int = 0
    """How long each is waited for; 0 means as long as for any version."""


@dataclass(frozen=True, slots=True)
class MemberAnswer:
    """What one member said to the rows of a work."""

    member: Member
    outputs: Columns | None
    """All rows, null where it gave no answer; None when it gave none at all."""
    errors: Mapping[int, errors.SetpointError]
    """By row, why it gave none."""
    replicas: str = ""
    """Addresses of the replicas of inference that answered for it, joined by commas."""

    def take(self, rows: Sequence[int]) -> "MemberAnswer":
        """Returns what it said to some rows."""
        outputs = self.outputs
        return MemberAnswer(
            self.member,
            None if outputs is None else outputs.take(np.array(rows, np.intp)),
            {at: self.errors[row] for at, row in enumerate(rows) if row in self.errors},
            self.replicas,
        )


def check(found: Ensemble) -> None:
    """Refuses an ensemble that no route may have.

    Raises:
        InvalidArgumentError: Names the field, the value and the rule.
    """
    count = len(found.members)
    if not MIN_MEMBERS <= count <= MAX_MEMBERS:
        rule = f"must be {MIN_MEMBERS} to {MAX_MEMBERS}"
        raise errors.invalid("route.ensemble.members", count, rule)
    seen: set[int] = set()
    for each in found.members:
        if not 1 <= each.version <= assignment.MAX_VERSION:
            rule = f"must be a version from 1 to {assignment.MAX_VERSION}"
            raise errors.invalid("route.ensemble.members", each.version, rule)
        if each.version in seen:
            raise errors.invalid("route.ensemble.members", each.version, "must be given once")
        seen.add(each.version)
        if not 1 <= each.weight <= MAX_WEIGHT:
            raise errors.invalid(
                f"route.ensemble.members[version {each.version}].weight",
                each.weight,
                f"must be from 1 to {MAX_WEIGHT}",
            )
    if not 1 <= found.quorum <= count:
        rule = f"must be from 1 to the {count} members"
        raise errors.invalid("route.ensemble.quorum", found.quorum, rule)
    if found.member_deadline_us < 0:
        raise errors.invalid(
            "route.ensemble.member_deadline_microseconds",
            found.member_deadline_us,
            "must not be negative",
        )
