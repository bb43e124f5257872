"""The turn to change definitions, and the revision that all of them are at."""

from typing import Final

import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_feature.store import tables

# Any constant will do, as long as everything that registers takes the same lock.
_LOCK: Final = {"name": "setpoint.feature.registration"}


async def take_turn(connection: sqlalchemy_asyncio.AsyncConnection) -> None:
    """Waits until nobody else changes definitions; the lock is held until the transaction ends."""
    await connection.execute(
        sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), _LOCK
    )


async def is_at(connection: sqlalchemy_asyncio.AsyncConnection, revision: int) -> bool:
    """Tells whether definitions are at a revision, and stay there until the transaction ends.

    They are not while somebody changes them; nobody is waited for.
    """
    lock = sqlalchemy.text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
    if not (await connection.execute(lock, _LOCK)).scalar_one():
        return False
    newest = sqlalchemy.select(sqlalchemy.func.max(tables.definitions.c.revision))
    return ((await connection.execute(newest)).scalar_one() or 0) == revision
