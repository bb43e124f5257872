"""Where a job may read and write."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from urllib import parse

from setpoint_runtime import errors

LOCAL = "file://"
MAX_LENGTH = 1024


def normal(field: str, url: str) -> str:
    """Returns a URL in the form that is compared: a path becomes file://, nothing goes upwards.

    Raises:
        InvalidArgumentError: It is no URL and no absolute path.
    """
    if not url:
        raise errors.invalid(field, url, "must be given", errors.Reason.MISSING_FIELD)
    if len(url) > MAX_LENGTH or not url.isprintable():
        raise errors.invalid(field, url[:80], f"must be at most {MAX_LENGTH} plain characters")
    scheme, found, path = url.partition("://")
    if not found:
        scheme, path = "file", url
    if scheme == "file" and not path.startswith("/"):
        raise errors.invalid(field, url, "must be a URL or an absolute path")
    # A chained URL, "filecache::s3://", would name one place and read another.
    steps = path if scheme == "file" else parse.unquote(path)
    if not scheme or "::" in url or ".." in steps.split("/"):
        raise errors.invalid(field, url, "must be one plain URL, without '..' and '::'")
    if scheme != "file":
        return f"{scheme}://{path.rstrip('/')}"
    return f"{LOCAL}{posixpath.normpath('/' + path.lstrip('/'))}"


def check_allowed(field: str, url: str, prefixes: Sequence[str]) -> str:
    """Returns a normal URL that lies below one of the prefixes.

    Raises:
        PermissionDeniedError: URL_REFUSED, if it does not.
    """
    for prefix in prefixes:
        base = normal("prefix", prefix)
        if url.startswith(base if base.endswith("/") else f"{base}/"):
            return url
    listed = ", ".join(prefixes) or "nothing"
    raise errors.PermissionDeniedError(
        errors.Reason.URL_REFUSED,
        f"{field}: {url!r} is outside of what this service may use: {listed}",
        violations=[errors.FieldViolation(field, f"must lie below one of: {listed}")],
        metadata={"field": field},
    )
