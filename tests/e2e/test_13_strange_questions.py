"""Story 13: hundreds of questions with whatever fits on the wire, side by side with good ones."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from tests.support import parcels, questions, waiting
from tests.support import world as worlds
from tests.support.refusals import refusal_of

from setpoint.common.v1 import column_pb2, value_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import Columns, DataType, proto

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("still_answering")]

SEED = 8
ROUNDS = 12
STRANGE = 25
"""Strange questions in a round; as many good ones travel with them."""

BATCHES_AT_ONCE = 3
"""Fewer than the router takes at a time."""

INTEGERS = (0, -1, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63))
NUMBERS = (0.0, -0.0, 5e-324, 1e308, -1e308, 3.5e38, math.nan, math.inf, -math.inf, 0.1)
TEXTS = (
    "",
    " ",
    "\0",
    "bre\0men",
    "bremen\n",
    "Zoë",
    "🚚" * 20,
    "\u202eneerb",
    "\ufffe\uffff",
    "'; DROP TABLE predictions; --",
    '{"depot": 1}',
    "x" * 1024,
    "é" * 1000,
    "x" * 20_000,
    "x" * 100_000,
)
NAMES = ("", "\0", "depot", "distance", "queue", "probability", "x" * 5_000)
TIMES = (0, 1, 2**53, 2**63 - 1, -1, -(2**63))


@dataclass(slots=True)
class Heard:
    """What became of the questions."""

    answered: list[str] = field(default_factory=list)
    refused: int = 0


def _value(dice: random.Random) -> value_pb2.Value:
    made = (
        value_pb2.Value(),
        questions.NULL,
        value_pb2.Value(bool_value=dice.random() < 0.5),
        value_pb2.Value(int_value=dice.choice(INTEGERS)),
        value_pb2.Value(double_value=dice.choice(NUMBERS)),
        value_pb2.Value(string_value=dice.choice(TEXTS)),
        value_pb2.Value(timestamp_value=dice.choice(INTEGERS)),
    )
    return dice.choice(made)


def _strange(dice: random.Random) -> questions.Request:
    """Spoils a good question in up to three places."""
    request = questions.good()
    for _ in range(dice.randint(1, 3)):
        part = dice.choice((request.inputs, request.entities))
        spoil = dice.randrange(5)
        if spoil == 0:
            part[dice.choice(NAMES)].CopyFrom(_value(dice))
        elif spoil == 1:
            request.assignment_key = dice.choice(TEXTS)
        elif spoil == 2:
            request.event_time = dice.choice(TIMES)
        elif spoil == 3 and part:
            del part[dice.choice(sorted(part))]
        elif part:
            part[dice.choice(sorted(part))].CopyFrom(_value(dice))
    return request


def _column(dice: random.Random, name: str, rows: int) -> column_pb2.Column:
    """Makes a column of some type, whose buffers may be damaged."""
    dtype = dice.choice(list(DataType))
    pools: dict[DataType, Sequence[Any]] = {
        DataType.BOOL: (True, False),
        DataType.INT32: INTEGERS[:3],
        DataType.FLOAT32: (0.0, -0.0, 1e38, math.nan, math.inf),
        DataType.FLOAT64: NUMBERS,
        DataType.STRING: (*TEXTS, *parcels.KINDS, *parcels.DEPOTS),
    }
    pool = (*pools.get(dtype, INTEGERS), None)
    values = [dice.choice(pool) for _ in range(rows)]
    [column] = proto.to_proto(Columns.from_dict({name: (dtype, values)})).columns
    if dice.random() < 0.1:
        buffer = dice.choice(("values", "offsets", "validity"))
        data = bytearray(getattr(column, buffer))
        if data and dice.random() < 0.5:
            data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
        else:
            data += b"\xff" * dice.randint(1, 9)
        setattr(column, buffer, bytes(data))
    return column


def _good_rows(rows: int) -> Columns:
    return Columns.from_dict(
        {
            "depot": (DataType.STRING, [parcels.DEPOTS[0]] * rows),
            "crew": (DataType.STRING, [parcels.CREWS[0]] * rows),
            "distance": (DataType.FLOAT64, [1.0] * rows),
            "kind": (DataType.STRING, ["box"] * rows),
            "hour": (DataType.INT64, [1] * rows),
        }
    )


def _strange_batch(dice: random.Random) -> router_service_pb2.PredictBatchRequest:
    """Makes a batch in which up to three columns are anything, and others as they should be."""
    rows = dice.choice((0, 1, 2, 33))
    batch = router_service_pb2.PredictBatchRequest(
        route=parcels.ROUTE, rows=proto.to_proto(_good_rows(rows))
    )
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(batch.rows.columns))
        name = batch.rows.columns[place].name
        batch.rows.columns[place].CopyFrom(_column(dice, name, rows))
    if dice.random() < 0.2:
        batch.assignment_key_column = dice.choice(["kind", "hour", "distance", "nobody"])
    if dice.random() < 0.2:
        batch.event_time_column = dice.choice(["kind", "hour", "distance", "nobody"])
    if dice.random() < 0.1:
        batch.event_time = dice.choice(TIMES)
    return batch


async def _ask(world: worlds.World, request: questions.Request, heard: Heard) -> None:
    try:
        answer = await world.services.router.Predict(request, timeout=worlds.CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        told = refusal_of(error)
        assert told.code is grpc.StatusCode.INVALID_ARGUMENT, (told, str(request)[:2_000])
        assert told.reason, told
        assert told.fields, told
        heard.refused += 1
    else:
        heard.answered.append(answer.prediction_id)


async def test_strange_questions_hurt_nobody(world: worlds.World) -> None:
    """Proves that each is answered or refused by name, that good ones are answered, and all recorded."""
    dice = random.Random(SEED)
    # Records arrive in order: when this one is there, all before it are.
    last = await world.services.router.Predict(questions.good(), timeout=worlds.CALL_SECONDS)
    known = len(await world.wait_for_records([last.prediction_id]))
    good, strange = Heard(), Heard()
    for _ in range(ROUNDS):
        asking = [_ask(world, questions.good(), good) for _ in range(STRANGE)]
        asking += [_ask(world, _strange(dice), strange) for _ in range(STRANGE)]
        dice.shuffle(asking)
        await asyncio.gather(*asking)
    assert not good.refused
    assert strange.refused > ROUNDS
    assert len(strange.answered) > ROUNDS
    asked = 2 * ROUNDS * STRANGE
    assert len(good.answered) + len(strange.answered) + strange.refused == asked
    records = await waiting.until(world.recorded, lambda found: len(found) >= known + asked)
    assert len(records) == known + asked
    assert {*good.answered, *strange.answered} <= records.keys()
    assert set(records.values()) == {1}


async def test_strange_batches_hurt_nobody(world: worlds.World) -> None:
    """Proves that each is refused by name or answered row by row, and good ones beside it as well."""
    dice = random.Random(SEED)
    router = world.services.router
    good = router_service_pb2.PredictBatchRequest(
        route=parcels.ROUTE, rows=proto.to_proto(_good_rows(20))
    )
    statuses: Counter[int] = Counter()
    refused: Counter[str] = Counter()

    async def ask_strangely(batch: router_service_pb2.PredictBatchRequest) -> None:
        try:
            answer = await router.PredictBatch(batch, timeout=worlds.CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            told = refusal_of(error)
            assert told.code is grpc.StatusCode.INVALID_ARGUMENT, (told, str(batch)[:2_000])
            assert told.fields, told
            refused[told.reason] += 1
        else:
            results = proto.from_proto(answer.results)
            assert results.rows == batch.rows.rows
            told_rows = [status != 0 for status in results["status"].to_list()]
            assert told_rows == [text is not None for text in results["error"].to_list()]
            statuses.update(results["status"].to_list())

    async def ask() -> None:
        answer = await router.PredictBatch(good, timeout=worlds.CALL_SECONDS)
        assert set(proto.from_proto(answer.results)["status"].to_list()) == {0}

    for _ in range(ROUNDS * 8):
        strange = [ask_strangely(_strange_batch(dice)) for _ in range(BATCHES_AT_ONCE - 1)]
        await asyncio.gather(ask(), *strange)
    # The codes of a row: answered, or its own value is to blame.
    assert statuses.keys() == {0, grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert {"WRONG_TYPE", "MALFORMED_COLUMNS"} <= refused.keys()
