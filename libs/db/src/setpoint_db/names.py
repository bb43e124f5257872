"""Names that are written into SQL, where a parameter cannot stand."""

import re

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def check_schema(name: str) -> str:
    """Returns the name when it is a plain SQL identifier.

    Schemas and roles are named in the code or by an operator, never by a request; the check
    keeps a slip from becoming an injection.

    Raises:
        ValueError: if it would have to be quoted.
    """
    if _IDENTIFIER.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a plain name of lower-case letters, digits and _")
    return name
