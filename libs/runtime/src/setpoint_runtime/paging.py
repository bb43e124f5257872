"""Pages of a list: one rule for sizes and tokens in every service.

A token holds the key of the last row of a page, so the next page begins right after it, whatever
was inserted meanwhile. It also holds what list it belongs to; it is a convenience, not a secret,
and grants nothing that the list itself does not.
"""

import base64
import binascii
import json
import re
import uuid
import zlib
from collections.abc import Sequence

from setpoint_runtime import errors, ids

DEFAULT_SIZE = 100
MAXIMUM_SIZE = 1000
_MAXIMUM_TOKEN_LENGTH = 4096
_NOT_STORED = re.compile("[\0\ud800-\udfff]")

Key = tuple[int | str, ...]


def size(page_size: int) -> int:
    """Return how many rows a page shall have: 0 means 100, more than 1000 is 1000.

    Raises:
        InvalidArgumentError: It is negative.
    """
    if page_size < 0:
        raise errors.invalid("page_size", page_size, "must be at least 0")
    return min(page_size or DEFAULT_SIZE, MAXIMUM_SIZE)


def encode(method: str, arguments: Sequence[int | str], key: Sequence[int | str]) -> str:
    """Return the token for the page that begins after a key.

    Args:
        method: Name of the listing method.
        arguments: What else decides on the content of the list, such as a filter.
        key: Sort key of the last row of this page.
    """
    content = json.dumps([_scope(method, arguments), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode(
    method: str, arguments: Sequence[int | str], token: str, kinds: Sequence[type]
) -> Key | None:
    """Return the key a token holds, or None for the first page.

    Args:
        method: Name of the listing method.
        arguments: As they were when the token was made.
        token: From the caller; empty for the first page.
        kinds: Type of each part of the key: `int` (of 64 bits), `str`, or `uuid.UUID` for the text of one.

    Raises:
        InvalidArgumentError: INVALID_PAGE_TOKEN, if this list did not issue it.
    """
    if not token:
        return None
    try:
        if len(token) > _MAXIMUM_TOKEN_LENGTH:
            raise ValueError
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        scope, *key = json.loads(raw)
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise _refused(token) from None
    if scope != _scope(method, arguments) or len(key) != len(kinds):
        raise _refused(token)
    if not all(_is_a(kind, part) for kind, part in zip(kinds, key, strict=True)):
        raise _refused(token)
    return tuple(key)


def _is_a(kind: type, part: object) -> bool:
    """Say whether a part is of a kind, and such as a database can compare with."""
    # A truth value is an int to Python, though not to the database.
    if kind is int:
        return type(part) is int and -(2**63) <= part < 2**63
    if not isinstance(part, str) or _NOT_STORED.search(part):
        return False
    return kind is str or (kind is uuid.UUID and ids.is_uuid(part))


def _scope(method: str, arguments: Sequence[int | str]) -> int:
    return zlib.crc32(json.dumps([method, *arguments]).encode())


def _refused(token: str) -> errors.InvalidArgumentError:
    return errors.invalid(
        "page_token",
        token,
        "must be empty or the next_page_token of the same list",
        errors.Reason.INVALID_PAGE_TOKEN,
    )
