"""The demo's question on the first days of its real history: definitions, data, a served version."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
from tests.support import world as worlds

from setpoint.retraining.v1 import retraining_pb2
from setpoint_client import AsyncClient
from setpoint_demo import definitions, flights, streams

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGIN = datetime(2013, 1, 1, tzinfo=UTC)
DAYS = 8
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1) // _MICROSECOND
LEAK = ("departed_flight", "departure_delay", "")
"""View, field and alias of what is known only after the question."""


@dataclass(frozen=True, slots=True)
class Past:
    """What happened, and a feature service that was told."""

    client: AsyncClient
    frames: dict[str, pl.DataFrame]
    """What was written, by view."""
    address: str
    """Where the service listens."""


def midnight(day: int) -> int:
    """Returns when a day begins, in microseconds UTC; day 0 is the first of 2013."""
    return (BEGIN - EPOCH) // _MICROSECOND + day * _DAY


def history(days: int) -> dict[str, pl.DataFrame]:
    """Reads what had become known when the first days were over, one frame for each view."""
    known = pl.col("created_time").dt.timestamp("us") <= midnight(days)
    frames = streams.streams(flights.read_history())
    return {view: frame.filter(known) for view, frame in frames.items()}


def policy() -> retraining_pb2.Policy:
    """Makes the demo's policy fit for a week of data."""
    made = definitions.policy([retraining_pb2.RolloutStep(basis_points=10_000)])
    made.holdout_microseconds = 2 * _DAY
    made.gap_microseconds = _DAY // 4
    made.trainer_parameters["max_iter"] = "40"
    return made


async def settle(world: worlds.World) -> None:
    """Makes the demo's route answer, with a version trained on a week."""
    await world.register(
        definitions.ENTITIES, definitions.VIEWS, definitions.feature_set(), definitions.suite()
    )
    await world.write(history(DAYS))
    await world.put_policy(policy())
    run = await world.retrain(definitions.POLICY, midnight(DAYS))
    run = await world.decide(run, midnight(DAYS))
    assert run.state == retraining_pb2.RUN_STATE_SUCCEEDED, run
