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
    is_copied: bool
    """The slot lies below the share, and another version answers."""


def salt_of(route_salt: str, version: int) -> str:
    """Returns the salt by which one shadow's share is chosen.

    Each has its own, so that shadows get independent samples, and none of them the callers of one
    version alone.
    """
    return f"{route_salt}/shadow/{version}"


def choose(shadow: Shadow, route_salt: str, key: str, answering: int) -> Choice:
    """Says whether the predictions of a key are copied to a shadow.

    Args:
        shadow: The shadow.
        route_salt: The route's salt.
        key: The assignment key.
        answering: The version that answers the key; it gets no copies of its own answers.
    """
    slot = assignment.slot_of(salt_of(route_salt, shadow.version), key)
    return Choice(shadow, slot, slot < shadow.basis_points and shadow.version != answering)


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
