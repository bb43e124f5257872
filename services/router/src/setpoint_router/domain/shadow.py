"""Shadows: versions that get copies of requests and answer nobody."""

from collections.abc import Collection
from dataclasses import dataclass

from setpoint_router.domain import assignment
from setpoint_runtime import errors

MAX_SHADOWS = 8


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version and the share of requests that are copied to it, in basis points."""

    version: int
    basis_points: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether the predictions of a key are copied to a shadow."""

    shadow: Shadow
    slot: int

    @property
    def is_copied(self) -> bool:
        """Whether they are."""
        return self.slot < self.shadow.basis_points


def salt_of(route_salt: str, version: int) -> str:
    """Returns the salt by which one shadow's share is chosen.

    Each has its own, so that shadows get independent samples, and none of them the callers of one
    version alone.
    """
    return f"{route_salt}/shadow/{version}"


def choose(shadow: Shadow, route_salt: str, key: str) -> Choice:
    """Says whether the predictions of a key are copied to a shadow."""
    return Choice(shadow, assignment.slot_of(salt_of(route_salt, shadow.version), key))


def check(shadows: Collection[Shadow]) -> None:
    """Refuses shadows that no route may have.

    Raises:
        InvalidArgumentError: Names the field, the value and the rule.
    """
    if len(shadows) > MAX_SHADOWS:
        raise errors.invalid("route.shadows", len(shadows), f"must be at most {MAX_SHADOWS}")
    seen: set[int] = set()
    for each in shadows:
        if not 1 <= each.version <= assignment.MAX_VERSION:
            rule = f"must be a version from 1 to {assignment.MAX_VERSION}"
            raise errors.invalid("route.shadows", each.version, rule)
        if each.version in seen:
            raise errors.invalid("route.shadows", each.version, "must be given once")
        seen.add(each.version)
        if not 1 <= each.basis_points <= assignment.SLOTS:
            raise errors.invalid(
                f"route.shadows[version {each.version}]",
                each.basis_points,
                f"must be a share from 1 to {assignment.SLOTS} basis points",
            )
