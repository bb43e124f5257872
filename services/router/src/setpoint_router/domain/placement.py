"""Which replicas a version lives on, and which of them takes a call.

Rendezvous hashing ranks all replicas anew for each version: one that joins or leaves changes only
what it gains or had. The bounded load keeps the first in rank from taking everything.
"""

import math
from collections.abc import Iterable, Sequence

from setpoint_router.domain import assignment


def ranked(version: str, replicas: Iterable[str]) -> list[str]:
    """Returns replicas in the order in which they are asked to hold a version."""
    weights = {name: assignment.xxh3(f"{version}\0{name}".encode()) for name in replicas}
    return sorted(weights, key=lambda name: (-weights[name], name))


def bound(total: int, replicas: int, factor: float) -> int:
    """Returns how much load one of several replicas takes at most, of a total that they share."""
    return math.ceil(factor * total / replicas)


def choose(loads: Sequence[int], added: int, factor: float) -> int:
    """Returns the position of the replica that takes further load.

    It is the first one that stays within the bound. There always is one for load that comes in
    single units; a larger piece that fits nowhere goes to where there is least.

    Args:
        loads: Load of each replica, in the order of preference.
        added: The load to place.
        factor: Bound as a multiple of the mean, at least 1.
    """
    most = bound(sum(loads) + added, len(loads), factor) - added
    for position, load in enumerate(loads):
        if load <= most:
            return position
    return loads.index(min(loads))
