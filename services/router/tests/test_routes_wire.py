"""Routes over the wire: revisions, history, replicas, and life without the database."""

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_router import wiring
from setpoint_router.store import route_file
from setpoint_rpc import channel
from setpoint_runtime import errors

GIVEN = {
    "share": value_pb2.Value(double_value=0.5),
    "delay": value_pb2.Value(double_value=2.0),
    "hour": value_pb2.Value(int_value=8),
    "origin": value_pb2.Value(string_value="JFK"),
}


def request(
    weights: dict[int, int], request_id: str = "", expected: int = 0, **fields: Any
) -> router_service_pb2.UpdateRouteRequest:
    """Returns an update of the route `flights`."""
    fields.setdefault("name", "flights")
    fields.setdefault("model", "delays")
    return router_service_pb2.UpdateRouteRequest(
        request_id=request_id or str(uuid.uuid4()),
        expected_revision=expected,
        route=route_pb2.Route(
            weights=[
                route_pb2.VersionWeight(version=version, basis_points=share)
                for version, share in weights.items()
            ],
            **fields,
        ),
    )


async def refusal(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError]:
    """Returns code and typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), channel.from_rpc_error(caught.value)


async def explain(router: Any, key: str, time: int = 0) -> Any:
    """Returns what a key gets."""
    return await router.stub.ExplainAssignment(
        router_service_pb2.ExplainAssignmentRequest(route="flights", assignment_key=key, time=time)
    )


async def test_create_describes_versions(router: Any) -> None:
    """Shows that a route knows what its versions need, and had them loaded."""
    route = (await router.stub.GetRoute(router_service_pb2.GetRouteRequest(name="flights"))).route
    assert (route.revision, route.salt, route.moved_slots) == (1, "flights", 0)
    assert route.valid_from > 0
    served = route.served_versions[0]
    assert [each.name for each in served.inputs] == ["share", "delay", "hour", "origin"]
    assert [each.name for each in served.features] == ["share", "delay"]
    assert [each.name for each in served.request_fields] == ["hour", "origin"]
    assert [each.name for each in served.key_columns] == ["carrier"]
    assert router.peers.inference.loaded == [("delays", 1)]


async def test_update_moves_minimum(router: Any) -> None:
    """Shows that a canary moves exactly its share, and the data plane follows at once."""
    route = (await router.stub.UpdateRoute(request({1: 9_000, 2: 1_000}, expected=1))).route
    assert (route.revision, route.moved_slots) == (2, 1_000)
    answers = await asyncio.gather(
        *(router.predict(inputs=GIVEN, assignment_key=f"k{n}") for n in range(150))
    )
    versions = [each.assignment.model_version.version for each in answers]
    assert 3 <= versions.count(2) <= 35
    for number, answer in enumerate(answers[:50]):
        found = await explain(router, f"k{number}")
        assert found.assignment == answer.assignment
    again = await router.predict(inputs=GIVEN, assignment_key="k7")
    assert again.assignment.model_version == answers[7].assignment.model_version


async def test_update_replays(router: Any) -> None:
    """Shows that a repeated request changes nothing, and that its id cannot be used for another."""
    wish = request({1: 5_000, 2: 5_000})
    first = await router.stub.UpdateRoute(wish)
    again = await router.stub.UpdateRoute(wish)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.route == first.route
    other = request({1: 4_000, 2: 6_000}, wish.request_id)
    code, error = await refusal(router.stub.UpdateRoute(other))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert error.reason is errors.Reason.REQUEST_ID_REUSED


async def test_update_stale_revision_aborted(router: Any) -> None:
    """Shows that of two who change the same revision one must look again."""
    await router.stub.UpdateRoute(request({2: 10_000}, expected=1))
    code, error = await refusal(router.stub.UpdateRoute(request({1: 10_000}, expected=1)))
    assert code is grpc.StatusCode.ABORTED
    assert error.reason is errors.Reason.ETAG_MISMATCH


async def test_update_together_makes_revisions(router: Any) -> None:
    """Shows that concurrent changes each make a revision of their own."""
    wishes = [request({1: 10_000 - share, 2: share}) for share in range(100, 900, 100)]
    answers = await asyncio.gather(*map(router.stub.UpdateRoute, wishes))
    assert sorted(each.route.revision for each in answers) == list(range(2, 10))


REFUSED: dict[str, tuple[dict[int, int], dict[str, Any], str, str]] = {
    "unknown version": ({1: 1, 10: 9_999}, {}, "MODEL_VERSION_NOT_FOUND", "NOT_FOUND"),
    "pending version": ({3: 10_000}, {}, "NOT_APPROVED", "FAILED_PRECONDITION"),
    "weights": ({1: 9_999}, {}, "INVALID_WEIGHTS", "INVALID_ARGUMENT"),
    "other model": ({1: 10_000}, {"model": "others"}, "INVALID_FIELD", "INVALID_ARGUMENT"),
    "other salt": ({1: 10_000}, {"salt": "x"}, "INVALID_FIELD", "INVALID_ARGUMENT"),
    "back in time": ({1: 10_000}, {"valid_from": 1}, "INVALID_FIELD", "INVALID_ARGUMENT"),
    "no such route": ({1: 10_000}, {"name": "trains"}, "ROUTE_NOT_FOUND", "NOT_FOUND"),
    "pending fallback": (
        {1: 10_000},
        {"fallback_version": 3},
        "NOT_APPROVED",
        "FAILED_PRECONDITION",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_update_refuses(router: Any, case: str) -> None:
    """Shows that a change which cannot serve is refused by reason and changes nothing."""
    weights, fields, reason, code_name = REFUSED[case]
    code, error = await refusal(router.stub.UpdateRoute(request(weights, **fields)))
    assert (code.name, error.reason.value) == (code_name, reason)
    assert (await router.predict()).assignment.route_revision == 1


async def test_create_refuses_duplicates(router: Any) -> None:
    """Shows that a taken name is refused, and so are twice given versions and missing ids."""
    code, error = await refusal(router.create())
    assert (code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, errors.Reason.NAME_TAKEN)
    weight = route_pb2.VersionWeight(version=1, basis_points=5_000)
    twice = router_service_pb2.CreateRouteRequest(
        request_id=str(uuid.uuid4()),
        route=route_pb2.Route(name="x", model="delays", weights=[weight, weight]),
    )
    _, error = await refusal(router.stub.CreateRoute(twice))
    assert error.reason is errors.Reason.INVALID_WEIGHTS
    twice.request_id = ""
    del twice.route.weights[1:]
    twice.route.weights[0].basis_points = 10_000
    _, error = await refusal(router.stub.CreateRoute(twice))
    assert error.violations[0].field == "request_id"


async def test_create_unloadable_refused(router: Any) -> None:
    """Shows that no revision comes into force whose version inference cannot load."""
    router.peers.inference.load_error = errors.FailedPreconditionError(
        errors.Reason.DIGEST_MISMATCH, "other bytes"
    )
    code, error = await refusal(router.create("broken"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.reason is errors.Reason.MODEL_NOT_READY
    assert error.metadata["cause"] == "DIGEST_MISMATCH"


async def test_explain_past_revisions(router: Any) -> None:
    """Shows that what a key got at any time can be told, with replayed times too."""
    for time, share in ((1_000, 0), (2_000, 3_000), (3_000, 10_000)):
        weights = {1: 10_000 - share, 2: share}
        if time == 1_000:
            await router.create("history", weights=weights, valid_from=time)
        else:
            await router.stub.UpdateRoute(request(weights, name="history", valid_from=time))

    async def at(time: int) -> tuple[int, int]:
        found = await router.stub.ExplainAssignment(
            router_service_pb2.ExplainAssignmentRequest(
                route="history", assignment_key="key", time=time
            )
        )
        return found.assignment.route_revision, found.valid_from

    assert [await at(t) for t in (1_000, 1_999, 2_000, 2_500, 3_000, 0)] == [
        (1, 1_000),
        (1, 1_000),
        (2, 2_000),
        (2, 2_000),
        (3, 3_000),
        (3, 3_000),
    ]
    code, error = await refusal(at(999))
    assert code is grpc.StatusCode.NOT_FOUND
    assert error.reason is errors.Reason.ROUTE_REVISION_NOT_FOUND


async def test_explain_override(router: Any) -> None:
    """Shows that overrides win, in explaining as in predicting."""
    await router.stub.UpdateRoute(request({1: 10_000}, overrides={"vip": 2}))
    found = await explain(router, "vip")
    assert found.assignment.reason == route_pb2.ASSIGNMENT_REASON_OVERRIDE
    assert "override" in found.explanation
    answer = await router.predict(inputs=GIVEN, assignment_key="vip")
    assert answer.assignment == found.assignment
    assert answer.assignment.model_version.version == 2


async def test_list_pages(router: Any) -> None:
    """Shows that routes and revisions come in pages, and that a strange token is refused."""
    for name in ("b", "a", "c"):
        await router.create(name)
    names, token = [], ""
    while True:
        page = await router.stub.ListRoutes(
            router_service_pb2.ListRoutesRequest(page_size=2, page_token=token)
        )
        names += [each.name for each in page.routes]
        token = page.next_page_token
        if not token:
            break
    assert names == ["a", "b", "c", "flights"]
    for share in (100, 200, 300):
        await router.stub.UpdateRoute(request({1: 10_000 - share, 2: share}))
    ask = router_service_pb2.ListRouteRevisionsRequest(name="flights", page_size=3)
    page = await router.stub.ListRouteRevisions(ask)
    assert [each.revision for each in page.routes] == [4, 3, 2]
    ask.page_token = page.next_page_token
    page = await router.stub.ListRouteRevisions(ask)
    assert [each.revision for each in page.routes] == [1]
    assert not page.next_page_token
    ask.name = "a"
    _, error = await refusal(router.stub.ListRouteRevisions(ask))
    assert error.reason is errors.Reason.INVALID_PAGE_TOKEN


async def test_get_missing(router: Any) -> None:
    """Shows that a missing route and a missing revision are told apart."""
    get = router.stub.GetRoute
    _, error = await refusal(get(router_service_pb2.GetRouteRequest(name="trains")))
    assert error.reason is errors.Reason.ROUTE_NOT_FOUND
    _, error = await refusal(get(router_service_pb2.GetRouteRequest(name="flights", revision=7)))
    assert error.reason is errors.Reason.ROUTE_REVISION_NOT_FOUND


async def test_replica_follows(start_router: Any, serve: Any, router: Any, tmp_path: Any) -> None:
    """Shows that another replica serves a change within moments, by equal slots."""
    other_settings = router.settings.model_copy(update={"spool_directory": str(tmp_path / "other")})
    async with (
        serve(wiring.build, other_settings) as server,
        channel.connect(server.address, client="test") as to_other,
    ):
        from setpoint.router.v1 import router_service_pb2_grpc

        other = router_service_pb2_grpc.RouterServiceStub(to_other)
        await router.stub.UpdateRoute(request({1: 5_000, 2: 5_000}))
        ask = router_service_pb2.PredictRequest(route="flights", inputs=GIVEN, assignment_key="x")
        async with asyncio.timeout(20):
            while (answer := await other.Predict(ask, timeout=20)).assignment.route_revision != 2:
                await asyncio.sleep(0.02)
        mine = await router.predict(inputs=GIVEN, assignment_key="x")
        assert answer.assignment == mine.assignment


async def test_serves_without_database(start_router: Any) -> None:
    """Shows that a router starts from its last good routes and serves while PostgreSQL is down."""
    async with start_router() as router:
        await router.create(weights={1: 5_000, 2: 5_000})
        key = "somebody"
        before = await router.predict(inputs=GIVEN, assignment_key=key)
        # The file is written behind the change, at first without the route.
        kept = route_file.RouteFile(router.spool / "routes.snapshot")
        async with asyncio.timeout(20):
            while not kept.read():
                await asyncio.sleep(0.01)
    nowhere = "postgresql://postgres@127.0.0.1:1/nothing"
    async with start_router(database_url=nowhere) as router:
        after = await router.predict(inputs=GIVEN, assignment_key=key)
        assert after.assignment == before.assignment
        assert (await explain(router, key)).assignment == before.assignment
        code, error = await refusal(router.stub.UpdateRoute(request({1: 10_000})))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert error.reason is errors.Reason.DATABASE_UNAVAILABLE
