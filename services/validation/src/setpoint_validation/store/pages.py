"""How many rows of a list fit one answer."""

from collections.abc import Sequence

PAGE_BYTES = 3 * 1024 * 1024
"""A page ends here, below the 4 MiB of a message; one row always fits."""


def fitting(sizes: Sequence[int], limit: int) -> int:
    """Return how many of the first rows make a page.

    Args:
        sizes: Bytes of each row as a message.
        limit: Most rows of a page.
    """
    total = 0
    for count, size in enumerate(sizes[:limit]):
        total += size
        if count and total > PAGE_BYTES:
            return count
    return min(len(sizes), limit)
