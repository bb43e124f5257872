"""How many calls may be repeated at once, so that repeating never becomes the load itself."""


class RetryBudget:
    """A share of the calls in flight, and always a few."""

    __slots__ = ("_minimum", "_share", "active", "taken")

    def __init__(self, share: float, minimum: int) -> None:
        self._share = share
        self._minimum = minimum
        self.active = 0
        """Calls that have begun and not ended, however often they were repeated."""
        self.taken = 0
        """Repetitions in flight."""

    @property
    def limit(self) -> int:
        """Most repetitions at once."""
        return max(self._minimum, int(self._share * self.active))

    def take(self) -> bool:
        """Begins a repetition unless there are enough, and says whether it did."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """Ends a repetition."""
        self.taken -= 1
