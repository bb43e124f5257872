"""Texts for people."""

from setpoint_runtime import errors

MAX_LENGTH = 4096
"""Longest description or source."""


def check(field: str, value: str) -> str:
    """Return a text when it can be stored.

    Raises:
        InvalidArgumentError: It is too long, or holds a null character, which PostgreSQL does not store.
    """
    if len(value) > MAX_LENGTH:
        rule = f"must have at most {MAX_LENGTH} characters"
        raise errors.invalid(field, value, rule, errors.Reason.TOO_LARGE)
    if "\0" in value:
        raise errors.invalid(field, value, "must not hold a null character")
    return value
