"""What retention left of each view."""

import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_feature.domain import retention
from setpoint_feature.store import tables

_TABLE = tables.retained


async def load(connection: sqlalchemy_asyncio.AsyncConnection) -> dict[int, retention.Retained]:
    """Returns what is left, by the number of the view; views that lack no rows are not in it."""
    columns = _TABLE.c
    query = sqlalchemy.select(columns.view, columns.time, columns.sequence, columns.rows)
    return {
        row.view: retention.Retained(row.time, row.sequence, row.rows)
        for row in await connection.execute(query)
    }


async def note(
    connection: sqlalchemy_asyncio.AsyncConnection, view: int, left: retention.Retained
) -> None:
    """Notes that rows are gone; nothing of what is noted ever becomes less."""
    noted = postgresql.insert(_TABLE).values(
        view=view, time=left.time, sequence=left.sequence, rows=left.rows
    )
    await connection.execute(
        noted.on_conflict_do_update(
            index_elements=["view"],
            set_={
                "time": sqlalchemy.func.greatest(_TABLE.c.time, noted.excluded.time),
                "sequence": sqlalchemy.func.greatest(_TABLE.c.sequence, noted.excluded.sequence),
                "rows": _TABLE.c.rows + noted.excluded.rows,
            },
        )
    )
