"""Layers: which keys take part in a route's split at all.

A layer is a second division of all keys into slots, by a salt of its own. Routes that name the same
layer own different slots of it, so no key takes part in the experiments of two of them. Keys outside a
route's part get its baseline version. Layer slots say nothing of a route's own slots, nor those of one
layer of those of another, so a part may pass from one route to the next without its keys having been
divided before in any way that matters: freed slots need no rest.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from setpoint_router.domain import assignment
from setpoint_runtime import errors, names


@dataclass(frozen=True, slots=True)
class Layer:
    """A route's part of a layer."""

    name: str
    first_slot: int
    end_slot: int
    """The first slot after the part."""
    baseline_version: int
    """Who serves the keys outside the part."""

    @property
    def salt(self) -> str:
        """What layer slots are hashed with."""
        return f"layer/{self.name}"

    @property
    def share(self) -> float:
        """The part's share of all keys."""
        return (self.end_slot - self.first_slot) / assignment.SLOTS

    def slot_of(self, key: str) -> int:
        """Returns the layer slot of a key."""
        return assignment.slot_of(self.salt, key)

    def holds(self, slot: int) -> bool:
        """Says whether a layer slot belongs to the part."""
        return self.first_slot <= slot < self.end_slot

    def takes(self, key: str) -> bool:
        """Says whether a key takes part in the route's split."""
        return self.holds(self.slot_of(key))

    def overlaps(self, other: "Layer") -> bool:
        """Says whether some key would take part in both."""
        return (
            self.name == other.name
            and self.first_slot < other.end_slot
            and other.first_slot < self.end_slot
        )


def check(layer: Layer) -> None:
    """Refuses what is no part of a layer.

    Raises:
        InvalidArgumentError: Names the field, the value and the rule.
    """
    names.check_name("route.layer.name", layer.name)
    if not 0 <= layer.first_slot < assignment.SLOTS:
        rule = f"must be a slot from 0 to {assignment.SLOTS - 1}"
        raise errors.invalid("route.layer.first_slot", layer.first_slot, rule)
    if not layer.first_slot < layer.end_slot <= assignment.SLOTS:
        rule = f"must be after first_slot and at most {assignment.SLOTS}"
        raise errors.invalid("route.layer.end_slot", layer.end_slot, rule)
    if not 1 <= layer.baseline_version <= assignment.MAX_VERSION:
        rule = f"must be a version from 1 to {assignment.MAX_VERSION}"
        raise errors.invalid("route.layer.baseline_version", layer.baseline_version, rule)


def check_exclusive(route: str, layer: Layer, others: Iterable[tuple[str, Layer | None]]) -> None:
    """Refuses a part of which another route has some slots.

    Args:
        route: Whose part it is.
        layer: The part.
        others: All routes by name with theirs.

    Raises:
        FailedPreconditionError: Names the other route and its part.
    """
    for name, other in others:
        if name != route and other is not None and layer.overlaps(other):
            raise errors.FailedPreconditionError(
                errors.Reason.IN_USE,
                f"slots {other.first_slot} to {other.end_slot - 1} of layer {layer.name} belong to "
                f"route {name}; a key takes part in one route of a layer alone",
                metadata={"route": name, "layer": layer.name},
            )
