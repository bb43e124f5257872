"""Errors about files, which name the file, and column and row where there are any."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from setpoint_runtime import errors


def invalid_input(
    url: str, what: str, *, column: str = "", row: int | None = None
) -> errors.InvalidArgumentError:
    """Returns the error for a file that is not what it should be; rows count from 0."""
    place = url
    metadata = {"file": url}
    if column:
        place += f", column {column[:100]!r}"
        metadata["column"] = column[:256]
    if row is not None:
        place += f", row {row}"
        metadata["row"] = str(row)
    return errors.InvalidArgumentError(
        errors.Reason.INVALID_INPUT, f"{place}: {what}"[:1000], metadata=metadata
    )


def not_found(url: str) -> errors.NotFoundError:
    """Returns the error for an input that is not there."""
    return errors.NotFoundError(
        errors.Reason.INPUT_NOT_FOUND, f"{url}: there is no such file", metadata={"file": url}
    )


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
    """Names the file in whatever goes wrong while reading it."""
    try:
        yield
    except FileNotFoundError as error:
        raise not_found(url) from error
    except pa.ArrowException as error:
        raise invalid_input(url, _first_line(error)) from error
    except PermissionError as error:
        raise _refused(url) from error
    except (ConnectionError, TimeoutError) as error:
        # A store that is away, for one, may come back.
        raise errors.UnavailableError(
            errors.Reason.UNAVAILABLE, f"{url}: cannot be reached: {_first_line(error)}"
        ) from error
    except (OSError, ValueError) as error:
        raise invalid_input(url, f"cannot be read: {_first_line(error)}") from error


@contextlib.contextmanager
def writing(url: str) -> Iterator[None]:
    """Names the place in whatever goes wrong while writing there."""
    try:
        yield
    except PermissionError as error:
        raise _refused(url) from error
    except OSError as error:
        # A full disk, for one, may have room again.
        raise errors.UnavailableError(
            errors.Reason.UNAVAILABLE, f"{url}: cannot be written: {_first_line(error)}"
        ) from error


def _refused(url: str) -> errors.PermissionDeniedError:
    return errors.PermissionDeniedError(
        errors.Reason.URL_REFUSED, f"{url}: the system does not allow it", metadata={"file": url}
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
