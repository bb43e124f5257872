import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from setpoint.validation.v1 import validation_service_pb2 as pb
from setpoint.validation.v1 import validation_service_pb2_grpc
from setpoint_db import migrate
from setpoint_devstack import ports, postgres
from setpoint_rpc import channel
from setpoint_runtime import errors
from setpoint_testkit import serving
from setpoint_testkit.serving import Serve
from setpoint_validation import config, testing, wiring
from setpoint_validation.testing import Validation

Watch = Callable[[], Any]


@asynccontextmanager
async def watching(stub: Any) -> AsyncIterator[Watch]:
    """Open a watch; give what waits for its next snapshot."""
    call = stub.WatchRules(pb.WatchRulesRequest())

    async def following() -> pb.WatchRulesResponse:
        async with asyncio.timeout(20):
            snapshot: pb.WatchRulesResponse = await call.read()
            return snapshot

    try:
        yield following
    finally:
        call.cancel()


def names(snapshot: pb.WatchRulesResponse) -> list[str]:
    return [suite.name for suite in snapshot.suites]


async def test_watch_rules_snapshot_at_once(validation: Validation) -> None:
    """A watch begins with row rules of bound suites alone, or with none at all."""
    async with watching(validation.stub) as following:
        assert names(await following()) == []
    rules = testing.not_null("a"), testing.unique("a"), testing.at_least("b", 0)
    bound = testing.put_request(*rules, name="bound", feature_set="flights")
    stored = (await validation.stub.PutSuite(bound)).suite
    await validation.stub.PutSuite(testing.put_request(*rules, name="batches"))
    async with watching(validation.stub) as following:
        snapshot = await following()
    assert names(snapshot) == ["bound"]
    (suite,) = snapshot.suites
    assert [rule.rule_id for rule in suite.rules] == ["not_null_a", "range_b"]
    assert (suite.feature_set, suite.version) == ("flights", stored.version)


async def test_watch_rules_sends_changes(validation: Validation) -> None:
    """Each change of pushed rules is sent at once with a greater revision; others are not sent."""
    put = validation.stub.PutSuite
    async with watching(validation.stub) as following:
        first = await following()
        # The feed of this service would look by itself after a minute.
        await put(testing.put_request(testing.not_null("a"), name="one", feature_set="f"))
        second = await following()
        assert (names(second), second.revision > first.revision) == (["one"], True)
        await put(testing.put_request(testing.not_null("a"), name="batches"))
        same = testing.put_request(testing.not_null("a"), name="one", feature_set="f")
        same.suite.description = "no change of rules"
        await put(same)
        await put(testing.put_request(testing.not_null("b"), name="one", feature_set="f"))
        third = await following()
        assert third.revision == second.revision + 1
        assert third.suites[0].rules[0].not_null.column == "b"
        await put(testing.put_request(testing.not_null("b"), name="one"))
        assert names(await following()) == []
        await put(testing.put_request(testing.not_null("c"), name="two", feature_set="f"))
        assert names(await following()) == ["two"]
        request = pb.DeleteSuiteRequest(request_id=testing.request_id(), name="two")
        await validation.stub.DeleteSuite(request)
        assert names(await following()) == []


async def test_watch_rules_of_other_replica(
    serve: Serve, migrated_url: Callable[[str], str]
) -> None:
    """What one replica stores reaches the watchers of another."""
    url = migrated_url("validation")
    settings = config.ValidationSettings(database_url=url, poll_seconds=0.1)
    async with (
        serve(wiring.build, settings) as one,
        serve(wiring.build, settings) as other,
        channel.connect(one.address, client="test") as to_one,
        channel.connect(other.address, client="test") as to_other,
    ):
        writer = validation_service_pb2_grpc.ValidationServiceStub(to_one)
        reader = validation_service_pb2_grpc.ValidationServiceStub(to_other)
        async with watching(reader) as following:
            assert names(await following()) == []
            await writer.PutSuite(testing.put_request(testing.not_null("a"), feature_set="f"))
            assert names(await following()) == ["flights"]


async def test_watch_rules_survives_database(serve: Serve, tmp_path: Path) -> None:
    """A watch goes on while the database is away, for new watchers too, and sees what comes after."""
    server = postgres.PostgresServer(
        tmp_path / "postgres",
        ports.free_port(),
        postgres.PostgresOptions(durable=False, with_password=False),
    )
    await server.start()
    try:
        url = server.url("postgres")
        await migrate.upgrade(url, schema="validation", package="setpoint_validation")
        settings = config.ValidationSettings(database_url=url, poll_seconds=0.1)
        async with (
            serve(wiring.build, settings) as served,
            channel.connect(served.address, client="test") as opened,
        ):
            stub = validation_service_pb2_grpc.ValidationServiceStub(opened)
            request = testing.put_request(testing.not_null("a"), name="one", feature_set="f")
            await stub.PutSuite(request)
            async with watching(stub) as following:
                while names(await following()) != ["one"]:
                    pass
                await server.stop()
                await asyncio.sleep(0.5)
                async with watching(stub) as late:
                    assert names(await late()) == ["one"]
                again = testing.put_request(testing.not_null("a"), name="two", feature_set="g")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.PutSuite(again)
                reason = channel.from_rpc_error(caught.value).reason
                assert reason == errors.Reason.DATABASE_UNAVAILABLE
                await server.start()
                async with asyncio.timeout(20):
                    while True:
                        try:
                            await stub.PutSuite(again)
                            break
                        except grpc.aio.AioRpcError:
                            await asyncio.sleep(0.1)
                assert names(await following()) == ["one", "two"]
    finally:
        await server.stop()


async def test_stop_with_open_watch(
    serve: Serve, migrated_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open watch ends with the service, at once, and says that it may be opened elsewhere."""
    monkeypatch.setattr(serving, "GRACE_SECONDS", 50.0)
    settings = config.ValidationSettings(database_url=migrated_url("validation"))
    async with serve(wiring.build, settings) as served:
        opened = channel.connect(served.address, client="test")
        stub = validation_service_pb2_grpc.ValidationServiceStub(opened)
        call = stub.WatchRules(pb.WatchRulesRequest())
        await call.read()
        began = time.monotonic()
    assert time.monotonic() - began < 20
    assert await call.code() == grpc.StatusCode.UNAVAILABLE
    await opened.close()
