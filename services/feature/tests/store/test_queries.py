from typing import Any

import numpy as np
import pytest
import sqlalchemy

from setpoint_db import engine as engines
from setpoint_feature import ports
from setpoint_feature.domain import batch
from setpoint_feature.store import history_store, queries, tables
from setpoint_runtime import ids

ROWS = 3_000
PARAMETERS: dict[str, Any] = {
    "view": 1,
    "keys": [b"0", b"1"],
    "times": [1, 2],
    "numbers": [1, 2],
    "after": 0,
    "upto": 2 * ROWS,
    "first": 5,
    "first_event": 5,
    "last": ROWS,
    "limit": 2,
}
BY_KEY = {
    "greatest": queries.GREATEST,
    "keys": queries.KEYS,
    "versions": queries.VERSIONS,
    "arrival": queries.WINDOW_BY_ARRIVAL,
    "event": queries.WINDOW_BY_EVENT,
}


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_keys_are_looked_up_by_their_index_whatever_is_believed(
    feature_url: str, is_analyzed: bool
) -> None:
    """No look-up by key reads a whole view, though statistics know nothing of it, or another one alone."""
    engine = engines.create_engine(feature_url, application_name="test", schema=tables.SCHEMA)
    store = history_store.SQLHistoryStore(engine, engine, None)
    times = np.arange(ROWS, dtype=np.int64)
    rows = [b"row"] * ROWS

    async def write(view: int, keys: list[bytes]) -> None:
        entry = ports.Entry(ids.uuid7(), b"", batch.Batch(keys, times, times, rows))
        await store.write(view, [entry])

    plans = {}
    async with engine.connect() as connection:
        autovacuum = "ALTER TABLE history SET (autovacuum_enabled = false)"
        await connection.execute(sqlalchemy.text(autovacuum))
        await connection.commit()
        if is_analyzed:
            await write(2, [b"single"] * ROWS)
            await connection.execute(sqlalchemy.text("ANALYZE history"))
            await connection.commit()
        await write(1, [b"%d" % (number % 1_000) for number in range(ROWS)])
        for name, query in BY_KEY.items():
            statement = queries.prepare(query)
            wanted = {each: PARAMETERS[each] for each in statement.compile().params}
            if query is queries.GREATEST:
                wanted["after"] = b""
            explained = sqlalchemy.text(f"EXPLAIN {query}").bindparams(
                *statement._bindparams.values()
            )
            found = await connection.execute(explained, wanted)
            plans[name] = "\n".join(found.scalars())
    await engine.dispose()
    for name, plan in plans.items():
        scans = [
            line for line in plan.splitlines() if " on history" in line or "using hist" in line
        ]
        assert scans, name
        assert all("history_key" in line for line in scans if "Bitmap Heap" not in line), plan
