"""How calls for the same version wait for each other."""

import enum
from dataclasses import dataclass

from setpoint_inference.domain.cost import Cost

DEFAULT_ROWS = 64
"""Most rows of a batch when nobody says."""
_WORTH_US = 50.0
"""What a run costs beside its rows, from which on sharing it pays for joining and dividing rows."""


class TimeoutAction(enum.Enum):
    """What becomes of a call that has waited for too long."""

    REJECT = "reject"
    DELAY = "delay"
    """It waits on until nobody else does."""


@dataclass(frozen=True, slots=True)
class Batching:
    """The rules of one version's queue."""

    max_rows: int
    """No batch has more; 1 and less mean that every call runs by itself."""
    preferred_rows: tuple[int, ...] = ()
    """Rising; a batch leaves without delay when it has as many rows as one of them."""
    max_delay_us: int = 0
    """How long a call waits for others while a thread is free."""
    max_queued: int = 0
    """Calls that wait; 0 for any number."""
    timeout_us: int = 0
    """How long a call waits at most; 0 for any time."""
    timeout_action: TimeoutAction = TimeoutAction.REJECT

    @property
    def is_on(self) -> bool:
        """Whether calls are joined at all."""
        return self.max_rows > 1


def chosen(
    own: Batching | None, default: Batching, cost: Cost, *, has_loops: bool
) -> Batching | None:
    """Return the rules for a version, None when its calls run by themselves.

    Args:
        own: What its manifest says.
        default: What the server does when the manifest says nothing, and when it pays.
        cost: What a run costs.
        has_loops: A row may decide how long the run takes, which others must not wait for.
    """
    rules = own or default
    if has_loops or not rules.is_on:
        return None
    return rules if own or cost.shared_us >= _WORTH_US else None
