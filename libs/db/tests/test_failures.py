"""What the driver raises, told apart."""

import asyncpg
import pytest

from setpoint_db import failures
from setpoint_runtime import errors


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError(
            "cannot switch to state 15; another operation (2) is in progress"
        ),
        ConnectionResetError("reset by peer"),
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    ],
)
def test_lost_session_means_unavailable(error: Exception) -> None:
    """A session that ends in the middle of a statement is a database that is away."""
    found = failures.unavailable(error)
    assert found is not None
    assert found.reason is errors.Reason.DATABASE_UNAVAILABLE


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("the underlying query has no parameters"),
        asyncpg.InternalClientError("unexpected format of the answer"),
        asyncpg.UniqueViolationError("duplicate key"),
        KeyError("view"),
    ],
)
def test_misuse_stays_visible(error: Exception) -> None:
    """What is wrong with the program is not told as an outage."""
    assert failures.unavailable(error) is None
