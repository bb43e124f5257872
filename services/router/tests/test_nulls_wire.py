"""Missing values on their way to models that say what becomes of them."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import testing
from setpoint_rpc import channel
from setpoint_runtime import errors

Value = value_pb2.Value
NULL = Value(null_value=value_pb2.NULL_VALUE_UNSPECIFIED)
ENTITIES = {"carrier": Value(string_value="UA")}
SUBSTITUTES = 5
"""The version of the double with a substitute for `origin`, which is text."""


class Seen:
    """What inference was asked, as it came."""

    def __init__(self, router: Any) -> None:
        self.origins: list[str | None] = []
        router.peers.inference.poison = self.look

    def look(self, inputs: Columns) -> None:
        self.origins += inputs["origin"].to_list()


async def is_answered(router: Any, **fields: Any) -> bool:
    """Asks, and says whether the route was there."""
    try:
        await router.predict("some", **fields)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return False
    return True


async def test_null_reaches_the_substitute(router: Any) -> None:
    """A null of a text input goes on to a version with a substitute, fetched or given, and is recorded."""
    await router.create("some", weights={SUBSTITUTES: 10_000})
    seen = Seen(router)
    requested = {"hour": Value(int_value=8), "origin": NULL}
    given = requested | {"share": Value(double_value=0.5), "delay": Value(double_value=2.0)}
    await router.predict("some", entities=ENTITIES, inputs=requested)
    await router.predict("some", inputs=given)
    assert seen.origins == [None, None]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.predict("flights", inputs=given)
    error = channel.from_rpc_error(caught.value)
    assert error.reason is errors.Reason.NULL_REFUSED
    assert error.violations[0].field == 'inputs["origin"]'


async def test_null_of_a_batch_reaches_the_substitute(router: Any) -> None:
    """In columns too; a version without a substitute refuses the row with the null alone."""
    await router.create("some", weights={SUBSTITUTES: 10_000})
    seen = Seen(router)
    rows = Columns.from_dict(
        {
            "carrier": (DataType.STRING, ["UA", "B6"]),
            "hour": (DataType.INT64, [8, 9]),
            "origin": (DataType.STRING, [None, "JFK"]),
        }
    )
    for route, statuses in (("some", [0, 0]), ("flights", [3, 0])):
        answer = await router.stub.PredictBatch(
            router_service_pb2.PredictBatchRequest(route=route, rows=columns_proto.to_proto(rows)),
            timeout=20,
        )
        results = columns_proto.from_proto(answer.results)
        assert results["status"].to_list() == statuses
    assert seen.origins == [None, "JFK", "JFK"]


async def test_members_of_an_ensemble_must_all_take_a_null(router: Any) -> None:
    """A null goes on where every member has a form for it."""
    members = [route_pb2.EnsembleMember(version=version) for version in (1, SUBSTITUTES)]
    ensemble = route_pb2.Ensemble(members=members, combination=route_pb2.COMBINATION_MEAN)
    await router.create("both", weights={}, ensemble=ensemble)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.predict(
            "both", entities=ENTITIES, inputs={"hour": Value(int_value=8), "origin": NULL}
        )
    assert channel.from_rpc_error(caught.value).reason is errors.Reason.NULL_REFUSED


async def test_substitutes_outlive_a_restart(start_router: Any, peers: testing.Peers) -> None:
    """What the router knows of a version's nulls is stored with its route."""
    async with start_router() as router:
        await router.create("some", weights={SUBSTITUTES: 10_000})
    async with start_router() as router:
        requested = {"hour": Value(int_value=8), "origin": NULL}
        # The route comes from the database where the last good file is older.
        async with asyncio.timeout(20):
            while not await is_answered(router, entities=ENTITIES, inputs=requested):
                await asyncio.sleep(0.01)
    assert peers.inference.run.calls == 1
