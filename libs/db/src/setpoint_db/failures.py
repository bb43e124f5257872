"""What the driver raises, told apart: the database is away, or a rule was broken."""

import contextlib
from collections.abc import Iterator

import asyncpg
import sqlalchemy

from setpoint_runtime import errors

RETRY_AFTER_SECONDS = 1.0

_AWAY_CLASSES = (
    "08",  # connection exceptions
    "53",  # insufficient resources: connections, disk, memory
    "58",  # system errors outside PostgreSQL
)
_AWAY_CODES = frozenset(
    {
        "25P03",  # idle_in_transaction_session_timeout
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available
        "57014",  # query_canceled, by statement_timeout
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
    }
)
_BUSY_CODES = frozenset({"40001", "40P01", "55P03", "57014"})


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Goes from SQLAlchemy's exception over its adapter's to the driver's own."""
    current: BaseException | None = error
    while current is not None:
        yield current
        wrapped = getattr(current, "orig", None)
        current = wrapped if isinstance(wrapped, BaseException) else current.__cause__


def sqlstate(error: BaseException) -> str | None:
    """Returns PostgreSQL's error code of an exception, whichever layer raised it."""
    for part in _chain(error):
        code = getattr(part, "sqlstate", None)
        if isinstance(code, str):
            return code
    return None


def constraint_name(error: BaseException) -> str | None:
    """Returns the name of the constraint that an exception says was broken.

    Stores map their constraints to domain errors by this name; the text of the exception is
    neither stable nor safe to show.
    """
    for part in _chain(error):
        name = getattr(part, "constraint_name", None)
        if isinstance(name, str):
            return name
    return None


def unavailable(error: BaseException) -> errors.UnavailableError | None:
    """Returns the error to raise when the exception means that the database cannot be used now.

    None means it says something else: a broken constraint, a wrong statement, a cancellation.
    """
    code = sqlstate(error)
    if code in _BUSY_CODES:
        text = "the database is too busy to do this in time"
    elif code is not None and (code in _AWAY_CODES or code.startswith(_AWAY_CLASSES)):
        text = "the database cannot be used at the moment"
    elif code is None and _says_nothing_came_back(error):
        text = "the database does not answer"
    else:
        return None
    return errors.UnavailableError(
        errors.Reason.DATABASE_UNAVAILABLE, text, retry_after_seconds=RETRY_AFTER_SECONDS
    )


def _says_nothing_came_back(error: BaseException) -> bool:
    kinds = (
        OSError,
        TimeoutError,
        sqlalchemy.exc.TimeoutError,
        asyncpg.InterfaceError,
    )
    for part in _chain(error):
        if isinstance(part, sqlalchemy.exc.DBAPIError) and part.connection_invalidated:
            return True
        if isinstance(part, asyncpg.InterfaceError):
            # The same class also reports misuse of the driver, which must stay visible.
            return "connection is closed" in str(part) or "connection was closed" in str(part)
        if isinstance(part, asyncpg.InternalClientError):
            # So it says that the server ended the session while a statement was being sent.
            return "cannot switch to state" in str(part)
        if isinstance(part, kinds):
            return True
    return False


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Lets the block raise UnavailableError where the driver says the database is away."""
    try:
        yield
    except errors.SetpointError:
        raise
    except Exception as error:
        failure = unavailable(error)
        if failure is None:
            raise
        raise failure from error
