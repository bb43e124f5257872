"""Names that people give: one rule for all, safe in paths, keys and queries."""

import re

from setpoint_runtime import errors

RULE = "must match ^[a-z0-9_-]{1,64}$"
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


def check_name(field: str, value: str) -> str:
    """Return `value` when it is a valid name.

    Raises:
        InvalidArgumentError: It is not; the error names the field, the value and the rule.
    """
    if _NAME.fullmatch(value) is None:
        raise errors.invalid(field, value, RULE)
    return value
