"""Replicas that fail are left out for a while, longer each time, but never too many of them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """When a replica is left out, and for how long."""

    failures: int = 5
    """Consecutive ones."""
    base_seconds: float = 10.0
    """Of the first ejection; the next ones take twice, three times as long, and so on."""
    most_seconds: float = 300.0
    """Longest ejection."""
    share: float = 0.5
    """Most of the replicas that may be out at once; one always may while another is left."""


@dataclass(eq=False, slots=True)
class Standing:
    """How a replica has done."""

    is_up: bool = False
    """Whether it says that it serves."""
    is_out: bool = False
    failures: int = 0
    """Since the last success; a success sets it to 0, and nothing else need be told of one."""
    ejections: int = 0
    """The ones that still count."""
    until: float = 0.0
    """End of the ejection."""
    since: float = 0.0
    """Return from the last ejection."""


class Outliers:
    """The standings of all replicas; time is seconds that never go back."""

    def __init__(self, policy: Policy, now: Callable[[], float]) -> None:
        self._policy = policy
        self._now = now
        self._standings: list[Standing] = []

    def join(self) -> Standing:
        """Returns the standing of a further replica."""
        made = Standing()
        self._standings.append(made)
        return made

    def leave(self, standing: Standing) -> None:
        """Forgets a replica."""
        self._standings.remove(standing)

    def fail(self, standing: Standing) -> bool:
        """Notes a failure and says whether the replica is out from now on."""
        standing.failures += 1
        return standing.failures >= self._policy.failures and self.eject(standing)

    def eject(self, standing: Standing) -> bool:
        """Leaves a replica out if that may be, and says whether it did."""
        if standing.is_out or not self._may_lose(standing):
            return False
        policy, now = self._policy, self._now()
        # Each quiet base time makes up for one earlier ejection.
        quiet = int((now - standing.since) / policy.base_seconds)
        standing.ejections = max(0, standing.ejections - quiet) + 1
        standing.until = now + min(policy.base_seconds * standing.ejections, policy.most_seconds)
        standing.is_out = True
        return True

    def is_due(self, standing: Standing) -> bool:
        """Says whether an ejection has lasted long enough."""
        return standing.is_out and self._now() >= standing.until

    def readmit(self, standing: Standing) -> None:
        """Lets a replica in again."""
        standing.is_out = False
        standing.failures = 0
        standing.since = self._now()

    def _may_lose(self, standing: Standing) -> bool:
        out = sum(each.is_out for each in self._standings)
        most = max(1, int(self._policy.share * len(self._standings)))
        others = (each for each in self._standings if each is not standing)
        return out < most and any(each.is_up and not each.is_out for each in others)
