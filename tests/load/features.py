"""Features online, offline and written, beside Feast, one MGET, and polars on frames in memory."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import polars as pl
import redis
from rich.console import Console
from tests.load.support import children, ledger, memory, rates
from tests.load.support.benchmark import Options
from tests.load.support.environments import SetUpError
from tests.load.support.feature_figures import (
    MGET,
    OURS,
    POLARS,
    ROWS_FOR_ONE,
    TIMES_LARGER,
    Found,
    Size,
    measures,
    turn_name,
)
from tests.load.support.ledger import Ledger
from tests.load.support.measures import Outcome
from tests.load.support.peers import feast_project

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint_client import AsyncClient, results
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as column_messages
from setpoint_devstack import stack as stacks
from setpoint_runtime import errors, ids

TITLE = "Features: 20 numbers of 20,000 accounts, online and offline"

ACCOUNT, WRITTEN = "account", "account_written"
SMALL, LARGE = "account_small", "account_large"
"""Views; each has a feature set of the same name with all of its fields."""

ONLINE, JOIN, WRITE, SCALE = "online", "join", "write", "scale"
PARTS = (ONLINE, JOIN, WRITE, SCALE)

GET_ONLINE = "/setpoint.feature.v1.FeatureService/GetOnlineFeatures"
CALLERS = (1, 2, 4)
WRITERS = (1, 2, 4)
QUESTIONS = 50
CALL_SECONDS = 120.0
WRITE_SECONDS = JOIN_SECONDS = 1200.0
SETTLE_SECONDS = 120.0
TOLERANCE = 1e-6

FULL = Size(rounds=3, seconds=2.0, accounts=20_000, spine=100_000, small_accounts=100_000)
QUICK = Size(rounds=1, seconds=0.5, accounts=2_000, spine=10_000, small_accounts=2_000)


@dataclass(slots=True)
class World:
    """What runs, and what is asked."""

    client: AsyncClient
    house: stacks.Stack
    folder: Path
    valkey_url: str
    size: Size
    accounts: Ledger
    history: pl.DataFrame
    spine: pl.DataFrame

    async def settle(self) -> None:
        """Waits until what was asked before costs nothing any more."""
        pids = [self.house.pid(name) for name in self.house.logs]
        await children.settle(pids, SETTLE_SECONDS)


async def run(options: Options, console: Console) -> Outcome:
    """Starts the service and Feast, fills both, measures in rounds, and compares."""
    size = QUICK if options.is_quick else FULL
    parts = options.only or PARTS
    console.print("starting the service …")
    found = Found()
    notes: list[str] = []
    async with _world(options.folder, size) as world:
        if set(parts) - {SCALE}:
            console.print("filling it …")
            await _write(world, ACCOUNT, world.history)
            found = await _compare(world, options.folder, parts, notes, console)
        try:
            if SCALE in parts:
                await _grow(world, found, console)
        except errors.SetpointError as error:
            # What was measured before took minutes, too.
            notes.append(f"the large history was not measured: {error}")
        found.peak_bytes = memory.peak(world.house.pid("feature"))
    notes.append(f"polars {pl.__version__}; redis-py {redis.__version__} with hiredis")
    return Outcome(measures(found, size), notes)


async def _compare(
    world: World, folder: Path, parts: Sequence[str], notes: list[str], console: Console
) -> Found:
    """Gives every side its turns, Feast among them where it can be had and is asked for."""
    found = Found()
    if parts == (WRITE,):
        await _rounds(world, None, parts, found, console)
        return found
    try:
        console.print(f"{feast_project.REQUIREMENTS[0]}: setting it up, and filling it …")
        async with _feast(world, folder) as feast:
            await _rounds(world, feast, parts, found, console)
            notes.append(f"{feast_project.REQUIREMENTS[0]}: {feast_project.SETTINGS}")
            notes.append(f"Feast wrote {feast.written_rate:,.0f} rows/s to its online store alone")
    except (SetUpError, RuntimeError) as error:
        notes.append(f"Feast was not measured: {error}")
        found = Found()
        await _rounds(world, None, parts, found, console)
    return found


@contextlib.asynccontextmanager
async def _world(folder: Path, size: Size) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        house = stacks.Stack(folder / "stack", ("feature",), default_ports=False, dev=False)
        await stack.enter_async_context(house)
        client = AsyncClient(caller="bench", feature_address=house.addresses["feature"])
        await stack.enter_async_context(client)
        accounts = Ledger(size.accounts)
        world = World(
            client,
            house,
            folder,
            house.environment["SETPOINT_FEATURE_VALKEY_URL"],
            size,
            accounts,
            accounts.history(),
            accounts.spine(size.spine),
        )
        await _define(world)
        yield world


async def _define(world: World) -> None:
    feature = world.client.stubs.feature
    key = reference_pb2.FieldSpec(name=ledger.KEY, dtype=column_pb2.DATA_TYPE_INT64)
    entity = definition_pb2.Entity(name=ACCOUNT, keys=[key])
    await feature.RegisterEntity(
        feature_service_pb2.RegisterEntityRequest(request_id=ids.uuid7(), entity=entity),
        timeout=CALL_SECONDS,
    )
    dtype = column_pb2.DATA_TYPE_FLOAT32
    fields = [definition_pb2.FeatureField(name=name, dtype=dtype) for name in ledger.FIELDS]
    for name in (ACCOUNT, WRITTEN, SMALL, LARGE):
        view = definition_pb2.FeatureView(name=name, entity=ACCOUNT, fields=fields)
        await feature.RegisterFeatureView(
            feature_service_pb2.RegisterFeatureViewRequest(request_id=ids.uuid7(), view=view),
            timeout=CALL_SECONDS,
        )
        taken = [definition_pb2.FeatureReference(view=name, field=each) for each in ledger.FIELDS]
        await feature.RegisterFeatureSet(
            feature_service_pb2.RegisterFeatureSetRequest(
                request_id=ids.uuid7(),
                feature_set=definition_pb2.FeatureSet(name=name, features=taken),
            ),
            timeout=CALL_SECONDS,
        )


async def _write(world: World, view: str, rows: pl.DataFrame) -> None:
    """Writes rows and makes sure that all are durable, and online."""
    written = await _keep(world, view, rows)
    if not written.online_applied:
        raise AssertionError(f"not everything is online: {written}")


async def _keep(world: World, view: str, rows: pl.DataFrame) -> results.WriteResult:
    """Writes rows and makes sure that all are durable."""
    written = await world.client.write_features(view, rows, timeout=WRITE_SECONDS)
    if written.rows_written != rows.height:
        raise AssertionError(f"not everything was written: {written}")
    return written


@contextlib.asynccontextmanager
async def _feast(world: World, folder: Path) -> AsyncIterator[feast_project.Feast]:
    """Runs Feast, once both are known to say the same."""
    running = feast_project.running(world.history, world.valkey_url, folder / "feast")
    async with running as feast:
        await _check_online(world, feast)
        await _check_joins(world, feast, folder)
        yield feast


async def _check_online(world: World, feast: feast_project.Feast) -> None:
    """Makes sure that every form of Feast answers what the service answers.

    Raises:
        AssertionError: One does not.
    """
    asked = world.accounts.questions(1, 100)[0]
    with grpc.insecure_channel(world.house.addresses["feature"]) as channel:
        ours = await asyncio.to_thread(_ask, channel, _question(asked))
    for form in feast_project.ONLINE:
        theirs = await feast.ask("values", form=form, accounts=asked.tolist())
        for name in ledger.FIELDS:
            _check_equal(f"Feast, {form}", ours[name].values, np.array(theirs[name]))


async def _check_joins(world: World, feast: feast_project.Feast, folder: Path) -> None:
    """Makes sure that every side joins the same values to every row.

    Raises:
        AssertionError: One does not.
    """
    spine = folder / "spine.parquet"
    world.spine.write_parquet(spine)
    expected = ledger.joined(world.history, world.spine)
    tables = {OURS: await _join(world, ACCOUNT, world.spine)}
    for form in feast_project.OFFLINE:
        output = folder / f"joined-{form}.parquet"
        await feast.ask("history", form=form, spine=str(spine), output=str(output))
        tables[f"Feast, {form}"] = pl.read_parquet(output).sort(ledger.EVENT_TIME)
    for side, table in tables.items():
        if table.height != expected.height:
            raise AssertionError(f"{side} answers {table.height:,} rows")
        for name in ledger.FIELDS:
            _check_equal(side, expected[name].to_numpy(), table[name].to_numpy())


def _check_equal(side: str, one: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
    if not np.allclose(one, other, rtol=TOLERANCE):
        raise AssertionError(f"{side} does not say what the others say")


def _question(accounts: npt.NDArray[np.int64]) -> bytes:
    """Makes a request ahead: its sender costs as little as may be."""
    entities = Columns.from_dict({ledger.KEY: (DataType.INT64, accounts.tolist())})
    return feature_service_pb2.GetOnlineFeaturesRequest(
        feature_set=reference_pb2.FeatureSetReference(name=ACCOUNT),
        entities=column_messages.to_proto(entities),
        shared_event_times=True,
    ).SerializeToString()


def _ask(channel: grpc.Channel, message: bytes) -> Columns:
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GET_ONLINE)
    answer = method(message, timeout=CALL_SECONDS)
    reply = feature_service_pb2.GetOnlineFeaturesResponse.FromString(answer)
    return column_messages.from_proto(reply.features)


async def _join(world: World, feature_set: str, spine: pl.DataFrame) -> pl.DataFrame:
    found = await world.client.get_historical_features(feature_set, spine, timeout=JOIN_SECONDS)
    return found.frame


Turn = Callable[[], Awaitable[None]]


async def _rounds(
    world: World,
    feast: feast_project.Feast | None,
    parts: Sequence[str],
    found: Found,
    console: Console,
) -> None:
    """Gives every side its turns, in the other order every other round."""
    turns: list[Turn] = []
    if ONLINE in parts:
        turns += _online_turns(world, feast, found)
    if JOIN in parts:
        turns += _join_turns(world, feast, found)
    if WRITE in parts:
        turns += [functools.partial(_write_turn, world, writers, found) for writers in WRITERS]
    for number in range(world.size.rounds):
        console.print(f"round {number + 1} of {world.size.rounds} …")
        for turn in turns if number % 2 == 0 else reversed(turns):
            await world.settle()
            await turn()


def _online_turns(world: World, feast: feast_project.Feast | None, found: Found) -> list[Turn]:
    """Returns the turns of online reads: of one, a hundred and a thousand accounts at once."""
    turns: list[Turn] = []
    for entities, levels in ((1, (1,)), (100, CALLERS), (1000, CALLERS)):
        asked = world.accounts.questions(QUESTIONS, entities)
        for callers in levels:
            turns.append(functools.partial(_our_turn, world, asked, callers, found))
            if entities == 1000:
                turns.append(functools.partial(_mget_turn, world, asked, callers, found))
            elif feast is not None:
                turns += [
                    functools.partial(_feast_turn, world, feast, form, asked, callers, found)
                    for form in feast_project.ONLINE
                ]
    return turns


async def _our_turn(
    world: World, asked: Sequence[npt.NDArray[np.int64]], callers: int, found: Found
) -> None:
    messages = [_question(each) for each in asked]
    things = len(asked[0])
    with contextlib.ExitStack() as stack:
        address = world.house.addresses["feature"]
        channels = [stack.enter_context(grpc.insecure_channel(address)) for _ in range(callers)]

        def ask(channel: grpc.Channel, number: int) -> None:
            _ask(channel, messages[number % len(messages)])

        asks = [functools.partial(ask, channel) for channel in channels]
        read = await rates.of_threads(asks, things, world.size.seconds)
    found.online.setdefault(turn_name(OURS, things, callers), []).append(read)


async def _feast_turn(
    world: World,
    feast: feast_project.Feast,
    form: str,
    asked: Sequence[npt.NDArray[np.int64]],
    callers: int,
    found: Found,
) -> None:
    read = await feast.online(form, asked, callers, world.size.seconds)
    name = turn_name(f"Feast by {form}", len(asked[0]), callers)
    found.online.setdefault(name, []).append(read)


async def _mget_turn(
    world: World, asked: Sequence[npt.NDArray[np.int64]], callers: int, found: Found
) -> None:
    """Reads as many of the very values that the service reads, with nothing around it."""
    clients = [redis.Redis.from_url(world.valkey_url) for _ in range(callers)]
    keys = await asyncio.to_thread(_values_of_accounts, clients[0], world.size.accounts)
    questions = [[keys[place] for place in each.tolist()] for each in asked]

    def ask(client: "redis.Redis", number: int) -> None:
        answers: Any = client.mget(questions[number % len(questions)])
        if None in answers:
            raise AssertionError("a value is not there")

    asks = [functools.partial(ask, client) for client in clients]
    read = await rates.of_threads(list(asks), len(asked[0]), world.size.seconds)
    found.online.setdefault(turn_name(MGET, len(asked[0]), callers), []).append(read)
    for client in clients:
        client.close()


def _values_of_accounts(client: "redis.Redis", accounts: int) -> list[bytes]:
    """Returns the keys of one view's values: of the one that has a value for each account."""
    views: dict[bytes, list[bytes]] = {}
    for key in client.scan_iter(b"setpoint:*", count=10_000):
        # setpoint:<store>:<view version>:<entity key>
        views.setdefault(b":".join(key.split(b":", 3)[:3]), []).append(key)
    keys = next(keys for keys in views.values() if len(keys) >= accounts)
    return sorted(each for each in keys if not each.endswith(b":watermark"))[:accounts]


def _join_turns(world: World, feast: feast_project.Feast | None, found: Found) -> list[Turn]:
    async def ours() -> float:
        began = time.perf_counter()
        await _join(world, ACCOUNT, world.spine)
        return time.perf_counter() - began

    async def polars() -> float:
        began = time.perf_counter()
        await asyncio.to_thread(ledger.joined, world.history, world.spine)
        return time.perf_counter() - began

    async def theirs(form: str) -> float:
        spine = str(world.folder / "spine.parquet")
        told = await feast.ask("history", form=form, spine=spine) if feast else {}
        return float(told["seconds"])

    sides: dict[str, Callable[[], Awaitable[float]]] = {OURS: ours, POLARS: polars}
    if feast is not None:
        sides |= {
            f"Feast with {form}": functools.partial(theirs, form) for form in feast_project.OFFLINE
        }

    async def turn(side: str) -> None:
        seconds = await sides[side]()
        found.joins.setdefault(side, []).append(world.spine.height / seconds)

    return [functools.partial(turn, side) for side in sides]


async def _write_turn(world: World, writers: int, found: Found) -> None:
    """Writes the whole history again; writers share it by account, so that each row is online once."""
    key = pl.col(ledger.KEY)
    # Without a time of arrival they are corrections of what is there, of the same event times.
    rows = world.history.drop(ledger.CREATED_TIME)
    parts = [rows.filter(key % writers == place) for place in range(writers)]
    began = time.perf_counter()
    await asyncio.gather(*(_write(world, WRITTEN, part) for part in parts))
    seconds = time.perf_counter() - began
    found.writes.setdefault(str(writers), []).append(rows.height / seconds)


async def _grow(world: World, found: Found, console: Console) -> None:
    """Joins with a history that does not fit, and with a tenth of it, in turns."""
    small = Ledger(world.size.small_accounts, seed=1)
    large = Ledger(world.size.small_accounts * TIMES_LARGER, seed=2)
    sides = {SMALL: small, LARGE: large}
    for view, side in sides.items():
        console.print(f"writing {side.rows:,} rows …")
        for day in side.days():
            # Joins do not look at online copies, which may be behind after so much.
            await _keep(world, view, day)
        await world.settle()
    spines = {view: side.spine(side.rows // ROWS_FOR_ONE) for view, side in sides.items()}
    for number in range(world.size.rounds):
        console.print(f"round {number + 1} of {world.size.rounds} with these …")
        for view in (SMALL, LARGE) if number % 2 == 0 else (LARGE, SMALL):
            await world.settle()
            began = time.perf_counter()
            answer = await _join(world, view, spines[view])
            seconds = time.perf_counter() - began
            (found.small if view == SMALL else found.large).append(seconds)
            if answer[ledger.FIELDS[0]].null_count():
                raise AssertionError("a row was not found")
