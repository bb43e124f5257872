"""Calls to several replicas, over real gRPC; the processes that crash are in tests/integration."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio

from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import testing
from setpoint_router.adapters import replicas
from setpoint_router.adapters.replicas import discovery
from setpoint_router.adapters.replicas.discovery import Target
from setpoint_router.adapters.replicas.replica import Replica, State
from setpoint_router.domain import outliers, placement, plan, route
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

VERSION = route.ServedVersion(
    version=1,
    inputs=(route.Field("x", DataType.FLOAT64),),
    outputs=(route.Field("score", DataType.FLOAT64),),
)
PLAN = plan.serving_route(
    route.first_revision(
        route.Content(name="r", model="delays", weights={1: 10_000}), (VERSION,), 1_000
    )
).plans[0]
KEY = ("delays", 1)
INPUTS = columns_proto.to_proto(Columns(1, [Column.from_list("x", [2.0], DataType.FLOAT64)]))
EXPECTED = [1_000_002.0]
SECONDS = 20.0
"""Limit of what does not happen in a good run."""


class Double(testing.InferenceDouble):
    """A replica that can be held up, and whose calls can get lost."""

    def __init__(self) -> None:
        super().__init__()
        self.server: Any = None
        self.begun = 0
        self.at_once = self.most_at_once = 0
        self.cancelled = 0
        self.is_lossy = False
        """Calls end as if the connection had broken."""
        self.may_predict = asyncio.Event()
        self.may_predict.set()
        self.may_load = asyncio.Event()
        self.may_load.set()

    async def Predict(self, request: Any, context: Any) -> Any:
        """Answers when it may."""
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.may_predict.wait()
            if self.is_lossy:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
            return await super().Predict(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once -= 1

    async def LoadModel(self, request: Any, context: Any) -> Any:
        """Loads when it may."""
        await self.may_load.wait()
        return await super().LoadModel(request, context)


MAKE: Callable[[], Double] = Double
"""The methods that it lacks are never registered."""


class Named:
    """Addresses that a test changes, as DNS does."""

    names = (("inference", 7401),)
    fixed = ()

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self) -> tuple[Target, ...]:
        return tuple(Target(each) for each in self.addresses)


class Replicas:
    """Two replicas and what calls them."""

    def __init__(self, doubles: list[Double], fleet: replicas.Fleet, calls: Any) -> None:
        self.doubles = doubles
        self.fleet = fleet
        self.calls: replicas.ReplicatedInference = calls

    @property
    def ranked(self) -> list[Double]:
        """The doubles, the one that the version prefers first."""
        found = placement.ranked("delays/1", self.fleet.replicas)
        return sorted(self.doubles, key=lambda each: found.index(each.server.address))

    def replica(self, double: Double) -> Replica:
        return self.fleet.replicas[double.server.address]

    async def predict(self, seconds: float = SECONDS) -> list[float]:
        answer = await self.calls.predict(PLAN, INPUTS, seconds, None)
        return list(answer.outputs["score"].to_list())

    async def ready(self) -> None:
        """Waits until everybody serves and holds the version."""
        await until(
            lambda: all(
                KEY in each.loaded and each.is_good for each in self.fleet.replicas.values()
            )
        )


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what happens on this loop."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(
    number: int = 2,
    addresses: Any = None,
    calls: dict[str, Any] | None = None,
    in_force: Sequence[tuple[str, int]] = (KEY,),
    **options: Any,
) -> AsyncIterator[Replicas]:
    """Starts replicas and a fleet that knows them."""
    doubles = [MAKE() for _ in range(number)]
    for each in doubles:
        each.server = await testing.start_inference(each)
    named = ",".join(each.server.address for each in doubles)
    fleet = replicas.Fleet(
        addresses or replicas.parse(named),
        # No pause of the machine is a stalled replica.
        replicas.FleetOptions(**{"stall_seconds": SECONDS, **options}),
        clocks.SystemClock(),
        in_force=lambda: in_force,
    )
    try:
        async with fleet:
            made = replicas.ReplicatedInference(fleet, replicas.CallOptions(**(calls or {})))
            yield Replicas(doubles, fleet, made)
    finally:
        for each in doubles:
            each.may_predict.set()
            each.may_load.set()
            await each.server.stop(0)


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Replicas]:
    """Two replicas that serve and hold the version."""
    async with running() as made:
        await made.ready()
        yield made


async def test_parse_reads_lists_and_names() -> None:
    """Addresses come one by one or behind names, and each answer of DNS is a replica."""
    both = replicas.parse("10.0.0.1:7401, [::1]:7402,dns:///localhost:7403")
    assert both.fixed == (Target("10.0.0.1:7401"), Target("[::1]:7402"))
    assert both.names == (("localhost", 7403),)
    assert Target("127.0.0.1:7403", "localhost") in await both.resolve()
    with pytest.raises(errors.InvalidArgumentError):
        replicas.parse(" ,")


async def test_resolve_counts_each_replica_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that has an address of each family is one replica."""

    async def both(*_: Any, **__: Any) -> Any:
        kind = socket.SOCK_STREAM
        six = [(socket.AF_INET6, kind, 6, "", ("fd00::1", 7401, 0, 0))]
        four = [(socket.AF_INET, kind, 6, "", (host, 7401)) for host in ("10.0.0.2", "10.0.0.1")]
        return six + four

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    found = await replicas.parse("dns:///inference:7401").resolve()
    assert found == (Target("10.0.0.1:7401", "inference"), Target("10.0.0.2:7401", "inference"))


async def test_resolved_keeps_quiet_about_nothing() -> None:
    """An answer without addresses, or none, is no reason to forget the replicas."""

    class Broken(Named):
        async def resolve(self) -> tuple[Target, ...]:
            raise OSError("no such name")

    for addresses in (Broken(), Named()):
        assert await discovery.resolved(addresses) is None  # type: ignore[arg-type]  # a double.


async def test_single_rows_go_to_the_preferred_replica(pair: Replicas) -> None:
    """Without load one replica gets all calls, which keeps batches and caches together."""
    for _ in range(5):
        assert await pair.predict() == EXPECTED
    first, second = pair.ranked
    assert (first.run.calls, second.run.calls) == (5, 0)


async def test_load_is_shared(pair: Replicas) -> None:
    """Of many calls in flight none of two replicas has more than the bound."""
    for each in pair.doubles:
        each.may_predict.clear()
    asked = [asyncio.create_task(pair.predict()) for _ in range(40)]
    await until(lambda: sum(each.at_once for each in pair.doubles) == 40)
    assert max(each.at_once for each in pair.doubles) <= 25
    for each in pair.doubles:
        each.may_predict.set()
    assert await asyncio.gather(*asked) == [EXPECTED] * 40


async def test_load_reaches_every_holder() -> None:
    """A version is ready on all of its replicas before a route may use it, and on no other."""
    async with running(4, copies=3) as found:
        await until(lambda: all(r.state is State.SERVING for r in found.fleet.replicas.values()))
        await found.calls.load("delays", 7)
        holders = {each.name for each in found.fleet.holders(("delays", 7))}
        assert len(holders) == 3
        for each in found.doubles:
            assert (("delays", 7) in each.loaded) is (each.server.address in holders)


async def test_versions_in_force_are_leased_and_no_others() -> None:
    """What routes need is renewed without any calls; what they do not need any more is not."""
    other = ("delays", 2)
    in_force = [KEY, other]
    async with running(1, in_force=in_force, lease_seconds=0.03) as found:
        [double] = found.doubles
        await until(lambda: min(double.renewed[KEY], double.renewed[other]) >= 2)
        assert double.leases == {30_000}
        in_force.remove(other)
        found.fleet.follow_routes()
        last, turns = double.renewed[other], double.renewed[KEY]
        await until(lambda: double.renewed[KEY] >= turns + 3)
        # One renewal may have been on its way.
        assert double.renewed[other] <= last + 1


async def test_version_that_a_replica_has_dropped_is_loaded_again() -> None:
    """A replica that says it lacks a version gets no call for it before it has loaded it anew."""
    async with running(1, lease_seconds=0.03) as found:
        [double] = found.doubles
        await found.ready()
        double.may_load.clear()
        double.dropped.add(KEY)
        await until(lambda: not found.fleet.is_ready(KEY))
        double.may_load.set()
        await until(lambda: found.fleet.is_ready(KEY))
        assert double.loaded == [KEY, KEY]


async def test_leases_are_of_holders_alone() -> None:
    """A version is kept on as many replicas as it should have; one that has it beside them lets go."""
    async with running(3, copies=2, lease_seconds=0.03) as found:
        await until(lambda: all(each.is_good for each in found.fleet.replicas.values()))
        *_, surplus = found.ranked
        others = [each for each in found.doubles if each is not surplus]
        found.replica(surplus).loaded.add(KEY)
        await until(lambda: KEY not in found.replica(surplus).loaded)
        await until(lambda: all(KEY in found.replica(each).loaded for each in others))
        for each in found.doubles:
            each.renewed.clear()
        await until(lambda: all(each.renewed[KEY] > 2 for each in others))
        # One renewal may have been on its way.
        assert surplus.renewed[KEY] <= 1


async def test_replica_without_leases_serves(pair: Replicas) -> None:
    """An older inference, which keeps everything that it has loaded, is used as ever."""
    replica = pair.replica(pair.doubles[0])
    refused = errors.UnimplementedError(errors.Reason.UNIMPLEMENTED, "no such method")

    async def renew(keys: Any, lease_seconds: float) -> set[tuple[str, int]]:
        raise refused

    replica.renew = renew  # type: ignore[method-assign]  # as if the method were not there.
    await pair.fleet._renew_some(replica, [KEY])
    assert KEY in replica.loaded
    assert await pair.predict() == EXPECTED


async def test_load_says_why_it_cannot_be(pair: Replicas) -> None:
    """One replica that refuses a version keeps the route from using it."""
    pair.doubles[1].load_error = errors.FailedPreconditionError(
        errors.Reason.INVALID_ARTIFACT, "no model"
    )
    with pytest.raises(errors.FailedPreconditionError, match="no model"):
        await pair.calls.load("delays", 2)


async def test_load_goes_on_without_a_lost_replica(pair: Replicas) -> None:
    """A replica that died a moment ago does not keep routes from changing."""
    await pair.doubles[0].server.stop(0)
    await pair.calls.load("delays", 2)
    assert ("delays", 2) in pair.doubles[1].loaded


async def test_lost_call_is_repeated_elsewhere(pair: Replicas) -> None:
    """A call whose replica goes away is answered by another one, and the caller sees nothing."""
    first, second = pair.ranked
    first.is_lossy = True
    assert await pair.predict() == EXPECTED
    assert (first.begun, second.begun) == (1, 1)
    assert pair.calls.retries == 1


async def test_killed_replica_loses_no_call(pair: Replicas) -> None:
    """Calls in flight at the death of a replica are all answered, a few at once."""
    first, second = pair.ranked
    first.may_predict.clear()
    asked = [asyncio.create_task(pair.predict()) for _ in range(30)]
    await until(lambda: sum(each.done() for each in asked) + first.at_once == 30)
    assert first.at_once > 10
    await first.server.stop(0)
    assert await asyncio.gather(*asked) == [EXPECTED] * 30
    assert pair.calls.retries == first.begun
    assert second.begun == 30


async def test_repetitions_wait_for_their_turn() -> None:
    """However many calls fail at once, only so many are repeated at once, and none is lost."""
    async with running(calls={"retry_share": 0.0, "retry_minimum": 2}) as pair:
        await pair.ready()
        first, second = pair.ranked
        first.may_predict.clear()
        asked = [asyncio.create_task(pair.predict()) for _ in range(20)]
        await until(lambda: sum(each.done() for each in asked) + first.at_once == 20)
        waiting = first.at_once
        second.most_at_once = 0
        await first.server.stop(0)
        assert await asyncio.gather(*asked) == [EXPECTED] * 20
        assert pair.calls.retries == waiting
        assert second.most_at_once <= 2


async def test_call_that_waits_for_its_turn_can_leave() -> None:
    """Deadlines and cancels while waiting for the budget leave nothing behind."""
    async with running(calls={"retry_share": 0.0, "retry_minimum": 1}) as pair:
        await pair.ready()
        first, second = pair.ranked
        first.is_lossy = True
        second.may_predict.clear()
        holder = asyncio.create_task(pair.predict())
        await until(lambda: second.at_once == 1)
        # The bound sends the next ones to either; those that fail wait behind the holder.
        pair.replica(second).rows += 100
        left = asyncio.create_task(pair.predict())
        await until(lambda: first.begun == 2 and first.at_once == 0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert not await pair.calls._turn(deadline=0.0)
        pair.replica(second).rows -= 100
        second.may_predict.set()
        assert await holder == EXPECTED
        assert await pair.predict() == EXPECTED
        assert all(each.rows == 0 and not each.calls for each in pair.fleet.replicas.values())


async def test_silent_failures_eject(pair: Replicas) -> None:
    """A replica that loses calls again and again gets none for a while."""
    first, _ = pair.ranked
    first.is_lossy = True
    for _ in range(8):
        assert await pair.predict() == EXPECTED
    assert first.begun == outliers.Policy().failures
    assert pair.replica(first).standing.is_out
    assert pair.fleet.placement(KEY).candidates == [
        pair.replica(each) for each in pair.doubles if each is not first
    ]


async def test_ejected_replica_comes_back() -> None:
    """After its time a replica that answers gets calls again."""
    policy = outliers.Policy(failures=1, base_seconds=0.3)
    async with running(ejection=policy) as pair:
        await pair.ready()
        first, _ = pair.ranked
        first.is_lossy = True
        assert await pair.predict() == EXPECTED
        assert pair.replica(first).ejected == 1
        first.is_lossy = False
        await until(lambda: not pair.replica(first).standing.is_out)
        assert await pair.predict() == EXPECTED
        assert first.run.calls == 1


async def test_replica_that_was_let_go_is_not_alive(pair: Replicas) -> None:
    """Whoever asks after a replica just when it goes hears no, rather than that he should not ask."""
    replica = pair.replica(pair.doubles[0])
    assert await replica.is_alive(SECONDS)
    await replica.close()
    assert not await replica.is_alive(SECONDS)


async def test_model_errors_are_nobodys_failure(pair: Replicas) -> None:
    """Errors that a model sends are told as they are, once, and eject no replica."""
    first, second = pair.ranked
    first.run.error = errors.InternalError(errors.Reason.INFERENCE_FAILED, "broken model")
    for _ in range(10):
        with pytest.raises(errors.InternalError, match="broken model"):
            await pair.predict()
    assert (first.begun, second.begun) == (10, 0)
    assert not pair.replica(first).standing.is_out


async def test_version_that_is_not_ready_is_found_elsewhere(pair: Replicas) -> None:
    """A replica that is still loading sends calls on to another; when all are, it says so."""
    first, second = pair.ranked
    first.run.error = errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "loading")
    assert await pair.predict() == EXPECTED
    assert pair.replica(first).failed == 0
    second.run.error = first.run.error
    with pytest.raises(errors.UnavailableError) as caught:
        await pair.predict()
    assert caught.value.reason is errors.Reason.MODEL_NOT_READY


def says(replica: Replica, is_alive: bool) -> asyncio.Event:
    """Has a replica answer the question whether it lives, and returns what is set when asked."""
    asked = asyncio.Event()

    async def answer(seconds: float) -> bool:
        asked.set()
        return is_alive

    replica.is_alive = answer  # type: ignore[method-assign]  # instead of a frozen process.
    return asked


async def test_slow_model_is_no_stalled_replica(pair: Replicas) -> None:
    """Calls that take long stay where they are while their replica says that it lives."""
    first, second = pair.ranked
    assert await pair.replica(first).is_alive(SECONDS)
    asked = says(pair.replica(first), is_alive=True)
    first.may_predict.clear()
    slow = asyncio.create_task(pair.predict())
    async with asyncio.timeout(SECONDS):
        await asked.wait()
    first.may_predict.set()
    assert await slow == EXPECTED
    assert (first.begun, second.begun) == (1, 0)


async def test_stalled_replica_gives_its_calls_away(pair: Replicas) -> None:
    """Calls of a replica that does not say that it lives are answered by another one."""
    first, second = pair.ranked
    _ = says(pair.replica(first), is_alive=False)
    first.may_predict.clear()
    assert await pair.predict() == EXPECTED
    assert (first.begun, second.begun) == (1, 1)
    assert pair.replica(first).standing.is_out
    await until(lambda: first.cancelled == 1)


async def test_stalled_replica_does_not_hold_up_routes(pair: Replicas) -> None:
    """A version comes into force although a replica hangs, and that one loads it before calls."""
    first, _ = pair.ranked
    _ = says(pair.replica(first), is_alive=False)
    first.may_load.clear()
    await pair.calls.load("delays", 2)
    assert pair.replica(first).standing.is_out
    assert ("delays", 2) not in pair.replica(first).loaded


async def test_cancelled_call_is_not_repeated(pair: Replicas) -> None:
    """A caller who leaves takes the call along."""
    first, second = pair.ranked
    first.may_predict.clear()
    asked = asyncio.create_task(pair.predict())
    await until(lambda: first.at_once == 1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: first.cancelled == 1)
    assert second.begun == 0
    assert pair.replica(first).rows == 0


async def test_draining_replica_ends_its_calls_and_gets_no_more(pair: Replicas) -> None:
    """A replica that stops politely loses nothing: it answers what it has, others do the rest."""
    first, second = pair.ranked
    first.may_predict.clear()
    held = asyncio.create_task(pair.predict())
    await until(lambda: first.at_once == 1)
    await first.server.drain()
    await until(lambda: pair.replica(first).state is State.NOT_SERVING)
    assert await asyncio.gather(*(pair.predict() for _ in range(10))) == [EXPECTED] * 10
    assert (first.begun, second.begun) == (1, 10)
    first.may_predict.set()
    assert await held == EXPECTED
    assert pair.calls.retries == 0


async def test_returning_replica_loads_before_it_gets_calls(pair: Replicas) -> None:
    """A replica that comes back has the versions in memory before calls move to it."""
    first, second = pair.ranked
    port = first.server.port
    await first.server.stop(0)
    await until(lambda: not pair.replica(first).is_good)
    again = MAKE()
    again.may_load.clear()
    again.server = await testing.start_inference(again, port)
    pair.doubles.append(again)
    await until(lambda: pair.fleet.replicas[again.server.address].is_good)
    assert await pair.predict() == EXPECTED
    assert (again.begun, second.begun) == (0, 1)
    again.may_load.set()
    await until(lambda: KEY in pair.fleet.replicas[again.server.address].loaded)
    assert await pair.predict() == EXPECTED
    assert again.begun == 1


async def test_replica_that_cannot_load_gets_no_calls(caplog: pytest.LogCaptureFixture) -> None:
    """A version that one replica cannot load is answered by the other, tried again, and told once."""
    async with running(load_again_seconds=0.01) as pair:
        await pair.ready()
        first, second = pair.ranked
        tries = 0

        async def load(key: tuple[str, int], lease_seconds: float) -> None:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "no registry")

        pair.replica(first).load = load  # type: ignore[method-assign]  # instead of a broken disk.
        pair.replica(first).loaded.clear()
        pair.fleet.follow_routes()
        pair.fleet.placement(KEY).epoch = -1
        assert await pair.predict() == EXPECTED
        assert (first.begun, second.begun) == (0, 1)
        await until(lambda: KEY in pair.replica(first).loaded)
        assert tries == 4
        assert await pair.predict() == EXPECTED
        assert first.begun == 1
    assert sum("no registry" in each.message for each in caplog.records) == 1


async def test_named_replicas_come_and_go() -> None:
    """A replica that DNS names no more serves until another one has loaded what it held."""
    named = Named()
    async with running(2, addresses=named, resolve_seconds=0.01, copies=1) as found:
        old, new = found.doubles
        named.addresses = (old.server.address,)
        await until(lambda: KEY in old.loaded)
        new.may_load.clear()
        named.addresses = (new.server.address,)
        await until(lambda: len(found.fleet.replicas) == 2)
        assert found.fleet.replicas[old.server.address].is_leaving
        await until(lambda: found.fleet.replicas[new.server.address].is_good)
        assert await found.predict() == EXPECTED
        assert (old.begun, new.begun) == (1, 0)
        old.may_predict.clear()
        held = asyncio.create_task(found.predict())
        await until(lambda: old.at_once == 1)
        new.may_load.set()
        await until(lambda: KEY in found.fleet.replicas[new.server.address].loaded)
        assert await found.predict() == EXPECTED
        assert new.begun == 1
        assert old.server.address in found.fleet.replicas
        old.may_predict.set()
        assert await held == EXPECTED
        await until(lambda: old.server.address not in found.fleet.replicas)


async def test_name_that_flickers_loses_no_call(pair: Replicas) -> None:
    """A replica that DNS forgets and names again, and forgets for good, ends its calls first."""
    first, second = pair.ranked
    targets = [each.target for each in pair.fleet.replicas.values()]
    others = [each for each in targets if each.address == second.server.address]
    first.may_predict.clear()
    held = asyncio.create_task(pair.predict())
    await until(lambda: first.at_once == 1)
    for named in (others, targets, others):
        pair.fleet.follow(named)
        assert pair.replica(first).is_leaving is (named is others)
    assert await pair.predict() == EXPECTED
    assert second.begun == 1
    first.may_predict.set()
    assert await held == EXPECTED
    await until(lambda: first.server.address not in pair.fleet.replicas)
    pair.fleet.follow(targets)
    await pair.ready()
    assert await pair.predict() == EXPECTED
    assert first.begun == 2


async def test_nobody_known() -> None:
    """Without a single replica calls fail at once, by name, each of them."""
    async with running(0, addresses=Named()) as found:
        for _ in range(2):
            with pytest.raises(errors.UnavailableError, match="no replica"):
                await found.predict()
        with pytest.raises(errors.UnavailableError, match="no replica"):
            await found.calls.load("delays", 1)
        # Asked while a call is being queued, where nobody could be told.
        assert found.calls.replicas(PLAN) == 1


@pytest.mark.parametrize(
    "options", [{"hedge_seconds": 0.01}, {"hedge_seconds": 0.01, "hedge_quantile": 0.9}]
)
async def test_slow_call_is_hedged(options: dict[str, float]) -> None:
    """A slow call is made a second time, the first answer counts, and the slow one is cancelled."""
    async with running(calls=options) as pair:
        await pair.ready()
        first, second = pair.ranked
        first.may_predict.clear()
        assert await pair.predict() == EXPECTED
        assert second.begun == 1
        await until(lambda: first.cancelled == 1)
        assert (pair.calls.hedges, pair.calls.retries) == (1, 0)
        assert all(each.rows == 0 and not each.calls for each in pair.fleet.replicas.values())


async def test_hedges_keep_to_the_budget() -> None:
    """Slow calls are made a second time only as often as the budget allows."""
    options = {"hedge_seconds": 0.01, "retry_share": 0.0, "retry_minimum": 2}
    async with running(calls=options) as pair:
        await pair.ready()
        for each in pair.doubles:
            each.may_predict.clear()
        asked = [asyncio.create_task(pair.predict()) for _ in range(10)]
        await until(lambda: sum(each.at_once for each in pair.doubles) == 12)
        for each in pair.doubles:
            each.may_predict.set()
        assert await asyncio.gather(*asked) == [EXPECTED] * 10
        assert pair.calls.hedges == 2


async def test_hedged_call_survives_both_failures() -> None:
    """A hedged call whose first replica is lost is answered by the other."""
    async with running(calls={"hedge_seconds": 0.01}) as pair:
        await pair.ready()
        first, second = pair.ranked
        first.is_lossy = True
        first.may_predict.clear()
        second.may_predict.clear()
        asked = asyncio.create_task(pair.predict())
        await until(lambda: second.at_once == 1)
        first.may_predict.set()
        await until(lambda: first.at_once == 0)
        second.may_predict.set()
        assert await asked == EXPECTED


@pytest.mark.parametrize("calls", [{}, {"hedge_seconds": 0.002}], ids=["plain", "hedged"])
async def test_disorder_leaves_nothing_behind(calls: dict[str, Any]) -> None:
    """Whatever is lost, held up and cancelled, who stays is answered, and every count returns to 0."""
    chance = random.Random(7)
    policy = outliers.Policy(failures=3, base_seconds=0.05)
    async with running(3, calls=calls, ejection=policy) as found:
        await found.ready()
        lossy, *others = found.doubles
        lossy.is_lossy = True
        left, asked = [], []
        for number in range(400):
            task = asyncio.create_task(found.predict())
            asked.append(task)
            if chance.random() < 0.2:
                left.append(task)
                asyncio.get_running_loop().call_later(chance.random() / 50, task.cancel)
            if number % 20 == 0:
                held = chance.choice(others)
                for each in others:
                    (each.may_predict.clear if each is held else each.may_predict.set)()
                await asyncio.sleep(0.005)
        for each in others:
            each.may_predict.set()
        results = await asyncio.gather(*asked, return_exceptions=True)
        for task, result in zip(asked, results, strict=True):
            assert result == EXPECTED or (
                task in left and isinstance(result, asyncio.CancelledError)
            )
        await until(lambda: not any(each.at_once for each in found.doubles))
        assert all(not each.rows and not each.calls for each in found.fleet.replicas.values())
        assert (found.calls.budget.active, found.calls.budget.taken) == (0, 0)


async def test_metrics_name_the_replicas(pair: Replicas) -> None:
    """Each replica has its own figures."""
    first, second = pair.ranked
    first.is_lossy = True
    assert await pair.predict() == EXPECTED
    found = {
        (sample.name, sample.labels.get("replica", "")): sample.value
        for metric in replicas.ReplicaMetrics(pair.fleet, pair.calls).collect()
        for sample in metric.samples
    }
    name = "setpoint_router_replica_{}".format
    assert found[name("failures_total"), first.server.address] == 1
    assert found[name("calls_total"), second.server.address] == 1
    assert found[name("up"), second.server.address] == 1
    assert found[name("versions"), second.server.address] == 1
    assert found["setpoint_router_inference_retries_total", ""] == 1


async def test_route_is_ready_on_all_replicas(start_router: Any) -> None:
    """A route comes into force once its versions are loaded on each replica that holds them."""
    doubles = [MAKE() for _ in range(2)]
    for each in doubles:
        each.server = await testing.start_inference(each)
    try:
        addresses = ",".join(each.server.address for each in doubles)
        async with start_router(
            inference_address=addresses, inference_stall_seconds=SECONDS
        ) as router:
            await router.create(weights={1: 5_000, 2: 5_000})
            for each in doubles:
                assert {("delays", 1), ("delays", 2)} <= set(each.loaded)
            for _ in range(4):
                await router.predict()
            assert sum(each.run.calls for each in doubles) == 4
    finally:
        for each in doubles:
            await each.server.stop(0)


async def test_replicas_are_found_by_name(start_router: Any) -> None:
    """A router that is told a DNS name alone calls the addresses behind it."""
    double = MAKE()
    double.server = await testing.start_inference(double)
    try:
        async with start_router(
            inference_address=f"dns:///localhost:{double.server.port}"
        ) as router:
            await router.create()
            await router.predict()
            assert double.run.calls == 1
    finally:
        await double.server.stop(0)
