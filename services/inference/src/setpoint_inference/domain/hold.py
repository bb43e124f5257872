"""What keeps a version in memory beyond the calls to it."""

from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Hold:
    """Those who need a version. They do not know of each other, so nobody can end another's need.

    A lease is counted from its last renewal and from the version's last call, whichever is later.
    """

    is_pinned: bool = False
    """Loaded by name without a lease: kept until it is unloaded by name."""
    lease_seconds: float = 0.0
    """The longest of the leases that were asked for; 0 without any."""
    renewed: float = 0.0
    """When a lease was last asked for, in monotonic seconds."""

    @property
    def is_by_name(self) -> bool:
        """Whether somebody asked for the version itself, rather than for its answers."""
        return self.is_pinned or self.lease_seconds > 0

    def ask(self, lease_seconds: float, now: float) -> None:
        """Keep the version for a lease, or for good when that is 0."""
        if lease_seconds:
            self.lease_seconds = max(self.lease_seconds, lease_seconds)
            self.renewed = now
        else:
            self.is_pinned = True

    def is_over(self, now: float, last_used: float) -> bool:
        """Say whether there were leases and none of them lasts."""
        lasts = now < max(self.renewed, last_used) + self.lease_seconds
        return self.lease_seconds > 0 and not (self.is_pinned or lasts)
