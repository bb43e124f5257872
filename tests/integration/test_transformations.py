"""Transformations between a question and its answer: computed for each caller from what is its own."""

import asyncio
import math
from typing import Any

import polars as pl
from tests.support import parcels
from tests.support.house import SECONDS, House

from setpoint_client import Prediction, errors


async def ask(house: House, row: dict[str, Any], **changes: Any) -> Prediction:
    """Ask about a parcel."""
    inputs = {name: row[name] for name in parcels.REQUEST_FIELDS} | changes
    entities = {name: row[name] for name in ("depot", "crew")}
    return await house.client.predict(
        parcels.ROUTE,
        entities=entities,
        inputs=inputs,
        event_time=row["sent_time"],
        timeout=SECONDS,
    )


async def test_a_failing_transformation_fails_its_own_row_alone(home: House) -> None:
    """Of questions that come together, one makes the function raise: the others get what they get alone."""
    last = home.questions()["sent_time"].max()
    frame = home.questions().head(24).with_columns(sent_time=pl.lit(last) + pl.duration(minutes=1))
    rows = frame.to_dicts()
    alone = [await ask(home, row) for row in rows]
    bad = 11
    together = await asyncio.gather(
        *(
            ask(home, row, **({"distance": math.inf} if at == bad else {}))
            for at, row in enumerate(rows)
        ),
        return_exceptions=True,
    )

    error = together[bad]
    assert isinstance(error, errors.UnavailableError)
    assert error.reason is errors.Reason.FEATURES_UNAVAILABLE
    assert error.metadata["cause"] == "TRANSFORMATION_FAILED"
    assert "'effort'" in error.message
    for at, (one, other) in enumerate(zip(alone, together, strict=True)):
        if at != bad:
            assert isinstance(other, Prediction), other
            assert other.outputs == one.outputs
            assert other.degradations == one.degradations
