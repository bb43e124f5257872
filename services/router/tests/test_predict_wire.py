"""Predict over the wire, among doubles of the other services."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint.validation.v1 import suite_pb2
from setpoint_columns import Columns
from setpoint_router.domain import assignment
from setpoint_router.store import route_file
from setpoint_rpc import channel
from setpoint_runtime import errors

Value = value_pb2.Value
Kind = router_service_pb2.DegradationKind.Name
ENTITIES = {"carrier": Value(string_value="UA")}
REQUESTED = {"hour": Value(int_value=8), "origin": Value(string_value="JFK")}
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}
FEATURES_OF_UA = 2 + ord("U") + ord("A")


async def until(is_so: Callable[[], object]) -> None:
    """Waits until something has become so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


async def recorded(router: Any, prediction_id: str) -> dict[str, Any]:
    """Returns the record of a prediction once monitoring has it."""
    await until(lambda: prediction_id in router.peers.ingest.ids)
    return dict(router.peers.ingest.row(prediction_id))


async def last_record(router: Any) -> dict[str, Any]:
    """Returns the last prediction that monitoring gets, once there is one."""
    await until(lambda: router.peers.ingest.ids)
    return dict(router.peers.ingest.row(list(router.peers.ingest.ids)[-1]))


async def refusal(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError]:
    """Returns code and typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), channel.from_rpc_error(caught.value)


async def outcome_of(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError] | None:
    """Returns code and typed error of a call, or nothing if it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), channel.from_rpc_error(error)
    return None


def degradations(answer: Any) -> list[tuple[str, str]]:
    """Returns kinds and subjects of what was not as it should be."""
    return [(Kind(each.kind), each.subject) for each in answer.degradations]


async def test_predict_answers_full_path(router: Any) -> None:
    """Shows that features are fetched, the model runs, and all of it reaches monitoring."""
    answer = await router.predict(event_time=1_000_000)
    assert answer.outputs["score"].double_value == 1e6 + FEATURES_OF_UA + 8
    assert answer.assignment.route == "flights"
    assert answer.assignment.route_revision == 1
    assert answer.assignment.reason == route_pb2.ASSIGNMENT_REASON_SLOT
    assert answer.assignment.slot == assignment.slot_of("flights", "UA")
    assert answer.feature_set.name == "flight"
    assert degradations(answer) == []
    row = await recorded(router, answer.prediction_id)
    assert (row["status"], row["error"], row["caller"]) == (0, None, "test")
    assert row["event_time"] == 1_000_000
    assert row["assignment_key"] == "UA"
    assert row["inputs"] == {"share": 2.0, "delay": 150.0, "hour": 8, "origin": "JFK"}
    assert row["outputs"]["score"] == answer.outputs["score"].double_value
    assert row["entities"] == {"carrier": "UA"}
    assert row["record"].model_version.version == 1
    assert row["record"].score_column == "score"
    assert list(row["record"].input_statuses) == [b"\1", b"\1", b"\5", b"\5"]
    assert row["features_microseconds"] > 0
    assert row["arrival_time"] <= row["reply_time"]


async def test_predict_answers_given_inputs(router: Any) -> None:
    """Shows that a request with all inputs asks nobody for features."""
    answer = await router.predict(inputs=GIVEN, assignment_key="me")
    assert answer.outputs["score"].double_value == 1e6 + 0.5 + 2 + 8
    assert not answer.HasField("feature_set")
    assert router.peers.features.online.calls == 0
    row = await recorded(router, answer.prediction_id)
    assert row["inputs"]["origin"] == "JFK"
    assert row["features_microseconds"] is None
    assert row["entities"] == {}


async def test_predict_accepts_null_floats(router: Any) -> None:
    """Shows that a float may be null, an integer may stand for a float, and zeros are values."""
    inputs = {
        "share": Value(null_value=value_pb2.NULL_VALUE_UNSPECIFIED),
        "delay": Value(int_value=0),
        "hour": Value(double_value=0.0),
        "origin": Value(string_value=""),
    }
    answer = await router.predict(inputs=inputs)
    assert answer.outputs["score"].double_value == 1e6
    row = await recorded(router, answer.prediction_id)
    assert row["inputs"] == {"share": None, "delay": 0.0, "hour": 0.0, "origin": ""}


def without(values: dict[str, Value], name: str) -> dict[str, Value]:
    """Returns values without one."""
    return {each: value for each, value in values.items() if each != name}


NULL = Value(null_value=value_pb2.NULL_VALUE_UNSPECIFIED)
TEXT = Value(string_value="x")
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing input": ({"inputs": without(GIVEN, "hour")}, "MISSING_FIELD", 'inputs["hour"]'),
    "no input at all": ({"inputs": {}}, "MISSING_FIELD", 'inputs["share"]'),
    "value without kind": (
        {"inputs": GIVEN | {"hour": Value()}},
        "MISSING_FIELD",
        'inputs["hour"]',
    ),
    "unknown input": ({"inputs": GIVEN | {"wind": TEXT}}, "UNKNOWN_FIELD", 'inputs["wind"]'),
    "text for number": ({"inputs": GIVEN | {"hour": TEXT}}, "WRONG_TYPE", 'inputs["hour"]'),
    "number for text": (
        {"inputs": GIVEN | {"origin": Value(int_value=1)}},
        "WRONG_TYPE",
        'inputs["origin"]',
    ),
    "bool for number": (
        {"inputs": GIVEN | {"hour": Value(bool_value=True)}},
        "WRONG_TYPE",
        'inputs["hour"]',
    ),
    "inexact integer": (
        {"inputs": GIVEN | {"hour": Value(int_value=2**24 + 1)}},
        "WRONG_TYPE",
        'inputs["hour"]',
    ),
    "above FLOAT32": (
        {"inputs": GIVEN | {"hour": Value(double_value=1e300)}},
        "WRONG_TYPE",
        'inputs["hour"]',
    ),
    "null text": ({"inputs": GIVEN | {"origin": NULL}}, "NULL_REFUSED", 'inputs["origin"]'),
    "1 MB text": (
        {"inputs": GIVEN | {"origin": Value(string_value="x" * 1_000_000)}},
        "TOO_LARGE",
        'inputs["origin"]',
    ),
    "unknown entity": (
        {"entities": ENTITIES | {"planet": TEXT}, "inputs": REQUESTED},
        "UNKNOWN_FIELD",
        'entities["planet"]',
    ),
    "entity key missing": (
        {"entities": {"planet": TEXT}, "inputs": REQUESTED},
        "UNKNOWN_FIELD",
        'entities["planet"]',
    ),
    "entity of another type": (
        {"entities": {"carrier": Value(int_value=1)}, "inputs": REQUESTED},
        "WRONG_TYPE",
        "carrier",
    ),
    "request field missing": (
        {"entities": ENTITIES, "inputs": without(REQUESTED, "hour")},
        "MISSING_FIELD",
        'inputs["hour"]',
    ),
    "feature given with entities": (
        {"entities": ENTITIES, "inputs": REQUESTED | {"share": Value(double_value=1)}},
        "UNKNOWN_FIELD",
        'inputs["share"]',
    ),
    "float for integer": (
        {"entities": ENTITIES, "inputs": REQUESTED | {"hour": Value(double_value=8)}},
        "WRONG_TYPE",
        'inputs["hour"]',
    ),
    "negative time": ({"inputs": GIVEN, "event_time": -1}, "INVALID_FIELD", "event_time"),
    "long key": ({"inputs": GIVEN, "assignment_key": "k" * 2_000}, "TOO_LARGE", "assignment_key"),
}


@pytest.mark.parametrize("case", BAD)
async def test_predict_refuses_bad_input(router: Any, case: str) -> None:
    """Shows that bad input is refused by field and reason, is recorded, and harms nobody."""
    fields, reason, path = BAD[case]
    code, error = await refusal(router.predict(**fields))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.reason.value, path in error.violations[0].field) == (reason, True), error
    row = await last_record(router)
    assert row["status"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert row["error"].startswith(f"{reason}: ")
    assert (await router.predict()).prediction_id


async def test_predict_null_entity(router: Any) -> None:
    """Shows that a null key is an entity that nobody knows, not an error."""
    answer = await router.predict(entities={"carrier": NULL}, inputs=REQUESTED)
    kinds = {kind for kind, _ in degradations(answer)}
    assert kinds == {"DEGRADATION_KIND_FEATURE_MISSING"}
    row = await recorded(router, answer.prediction_id)
    assert row["entities"] == {"carrier": None}
    assert row["assignment_key"] == ""


async def test_predict_unknown_route(router: Any) -> None:
    """Shows that a route that does not exist is named, and is no prediction."""
    code, error = await refusal(router.predict("trains"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert error.reason is errors.Reason.ROUTE_NOT_FOUND
    assert error.metadata["route"] == "trains"
    assert not router.peers.ingest.ids


async def test_predict_message_too_large(router: Any) -> None:
    """Shows that a message of 5 MB is refused by the transport, and the server goes on."""
    huge = {"origin": Value(string_value="x" * 5_000_000)}
    to_router = grpc.aio.insecure_channel(router.server.address)
    async with to_router:
        call: Any = to_router.unary_unary("/setpoint.router.v1.RouterService/Predict")
        request = router_service_pb2.PredictRequest(route="flights", inputs=huge)
        code, _ = await refusal(call(request.SerializeToString(), timeout=5))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await router.predict()).prediction_id


async def test_predict_expired_deadline(router: Any) -> None:
    """Shows that too little time is an error of its own kind."""
    code, _ = await refusal(router.predict(timeout=0.005))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_predict_poisoned_row_fails_alone(router: Any) -> None:
    """Shows that a row on which the model breaks is found, and its batch mates are answered."""

    def poison(inputs: Columns) -> errors.SetpointError | None:
        if 13.0 in inputs["hour"].to_list():
            return errors.InternalError(errors.Reason.INFERENCE_FAILED, "unlucky")
        return None

    router.peers.inference.poison = poison
    router.peers.inference.run.delay_seconds = 0.01
    hours = [*range(10), 13, *range(20, 40)]

    async def ask(hour: int) -> Any:
        return await router.predict(inputs=GIVEN | {"hour": Value(int_value=hour)})

    answers = await asyncio.gather(*map(ask, hours), return_exceptions=True)
    answer: Any
    for hour, answer in zip(hours, answers, strict=True):
        if hour == 13:
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.INTERNAL
            assert channel.from_rpc_error(answer).reason is errors.Reason.INFERENCE_FAILED
        else:
            assert answer.outputs["score"].double_value == 1e6 + 2.5 + hour
    assert max(router.peers.inference.run.rows) > 1


async def test_predict_broken_model_ends(router: Any) -> None:
    """Shows that a model that always breaks is not asked once for every row."""
    broken = errors.InternalError(errors.Reason.INFERENCE_FAILED, "broken")
    router.peers.inference.poison = lambda _: broken
    asks = [router.predict(inputs=GIVEN) for _ in range(100)]
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(each, grpc.aio.AioRpcError) for each in answers)
    assert router.peers.inference.run.calls < 100


async def test_predict_storm_of_cancels(router: Any) -> None:
    """Shows that cancels at random moments never change or lose another caller's answer."""
    chance = random.Random(7)
    router.peers.inference.run.delay_seconds = 0.003
    carriers = ["U" * (1 + number % 7) + "A" for number in range(300)]

    async def ask(number: int) -> Any:
        await asyncio.sleep(chance.random() * 0.3)
        return await router.predict(
            entities={"carrier": Value(string_value=carriers[number])},
            inputs=REQUESTED | {"hour": Value(int_value=number)},
        )

    tasks = [asyncio.create_task(ask(number)) for number in range(300)]
    victims = set(chance.sample(range(300), 100))
    for number in victims:
        asyncio.get_running_loop().call_later(chance.random() * 0.4, tasks[number].cancel)
    answers: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if isinstance(answer, asyncio.CancelledError):
            assert number in victims
            continue
        key = carriers[number]
        expected = 1e6 + len(key) + sum(map(ord, key)) + number
        assert answer.outputs["score"].double_value == expected
    for answer in answers:
        if not isinstance(answer, BaseException):
            assert (await recorded(router, answer.prediction_id))["status"] == 0
    assert set(router.peers.ingest.ids.values()) == {1}


async def test_predict_records_left_callers(router: Any) -> None:
    """Shows that a prediction whose caller leaves is recorded as such, as is one that is late."""
    inference = router.peers.inference
    gate = inference.gates[1] = asyncio.Event()
    task = asyncio.create_task(router.predict(inputs=GIVEN, assignment_key="left"))
    await until(lambda: inference.asked[1])
    task.cancel()
    seconds = 0.1
    while inference.asked[1] < 2:
        # On a machine that pauses, time may be over before the router has the call.
        late = router.predict(inputs=GIVEN, assignment_key="late", timeout=seconds)
        code, _ = await refusal(late)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        seconds *= 2
    gate.set()

    def statuses() -> dict[str, int]:
        found = [router.peers.ingest.row(each) for each in router.peers.ingest.ids]
        return {row["assignment_key"]: row["status"] for row in found}

    await until(lambda: len(statuses()) == 2)
    assert statuses() == {
        "left": grpc.StatusCode.CANCELLED.value[0],
        "late": grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
    }


async def test_predict_shares_calls(router: Any) -> None:
    """Shows that requests in flight together share calls and records."""
    router.peers.features.online.delay_seconds = 0.02
    await asyncio.gather(*(router.predict() for _ in range(60)))
    assert router.peers.features.online.calls < 20
    assert router.peers.inference.run.calls < 20


async def test_predict_flags_feature_statuses(router: Any) -> None:
    """Shows that stale, missing and default features are told in reply and record."""
    router.peers.features.statuses = {"S": 2, "M": 3, "D": 4}
    expected = {"S": "FEATURE_STALE", "M": "FEATURE_MISSING", "D": "FEATURE_DEFAULT"}

    async def ask(carrier: str) -> Any:
        return await router.predict(
            entities={"carrier": Value(string_value=carrier)}, inputs=REQUESTED
        )

    answers = await asyncio.gather(*map(ask, ["S", "UA", "M", "D"]))
    for carrier, answer in zip(["S", "UA", "M", "D"], answers, strict=True):
        kind = expected.get(carrier)
        wanted = (
            [] if kind is None else [(f"DEGRADATION_KIND_{kind}", n) for n in ("share", "delay")]
        )
        assert degradations(answer) == wanted
        row = await recorded(router, answer.prediction_id)
        text = None if kind is None else f"{kind}:share,{kind}:delay"
        assert row["degradations"] == text


async def test_predict_flags_features_from_the_history(router: Any) -> None:
    """Shows that an answer on features that did not come from the online store says so, as its record does."""
    router.peers.features.history_views = ("delays", "sizes")
    answer = await router.predict()
    kind = "FEATURES_FROM_HISTORY"
    assert degradations(answer) == [
        (f"DEGRADATION_KIND_{kind}", "delays"),
        (f"DEGRADATION_KIND_{kind}", "sizes"),
    ]
    row = await recorded(router, answer.prediction_id)
    assert row["degradations"] == f"{kind}:delays,{kind}:sizes"
    router.peers.features.history_views = ()
    assert degradations(await router.predict()) == []


@pytest.mark.parametrize("is_slow", [True, False], ids=["slow", "down"])
async def test_predict_without_features_rejected(
    start_router: Any, peers: Any, is_slow: bool
) -> None:
    """Shows that a route rejects by default when features do not come in time."""
    if is_slow:
        peers.features.online.delay_seconds = 3
    else:
        peers.features.online.error = errors.UnavailableError(
            errors.Reason.ONLINE_STORE_UNAVAILABLE, "no store"
        )
    async with start_router(features_seconds=0.1) as router:
        await router.create()
        code, error = await refusal(router.predict())
        assert code is grpc.StatusCode.UNAVAILABLE
        assert error.reason is errors.Reason.FEATURES_UNAVAILABLE
        assert (await last_record(router))["status"] == grpc.StatusCode.UNAVAILABLE.value[0]


async def test_predict_without_features_nulls(router: Any) -> None:
    """Shows that a route may answer with nulls, and says so."""
    await router.create(
        "lenient",
        feature_failure_policy=route_pb2.FEATURE_FAILURE_POLICY_ANSWER_WITH_NULLS,
    )
    router.peers.features.online.error = errors.InternalError(errors.Reason.INTERNAL, "broken")
    answer = await router.predict("lenient")
    assert answer.outputs["score"].double_value == 1e6 + 8
    assert degradations(answer) == [("DEGRADATION_KIND_FEATURES_UNAVAILABLE", "flight")]
    row = await recorded(router, answer.prediction_id)
    assert row["inputs"]["share"] is None
    assert row["record"].input_statuses[0] == b"\3"


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFoundError(errors.Reason.MODEL_VERSION_NOT_FOUND, "gone"),
        errors.FailedPreconditionError(errors.Reason.DIGEST_MISMATCH, "wrong"),
        errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "loading"),
    ],
    ids=lambda error: error.reason.value,
)
@pytest.mark.parametrize("fields", [{}, {"inputs": GIVEN}], ids=["full", "given"])
async def test_predict_falls_back(router: Any, error: Any, fields: dict[str, Any]) -> None:
    """Shows that the fallback answers when the chosen version cannot, flagged."""
    await router.create("safe", weights={2: 10_000}, fallback_version=1)
    router.peers.inference.version_errors = {2: error}
    answer = await router.predict("safe", **fields)
    assert answer.assignment.model_version.version == 1
    assert answer.assignment.reason == route_pb2.ASSIGNMENT_REASON_FALLBACK
    assert degradations(answer) == [("DEGRADATION_KIND_FALLBACK_VERSION", "2")]
    row = await recorded(router, answer.prediction_id)
    assert row["reason"] == route_pb2.ASSIGNMENT_REASON_FALLBACK
    assert row["record"].model_version.version == 1
    assert row["chosen_version"] == 2


async def test_predict_without_fallback_unavailable(router: Any) -> None:
    """Shows that a version that cannot answer is named when there is no other."""
    gone = errors.NotFoundError(errors.Reason.MODEL_VERSION_NOT_FOUND, "gone")
    router.peers.inference.version_errors = {1: gone}
    code, error = await refusal(router.predict())
    assert code is grpc.StatusCode.UNAVAILABLE
    assert error.reason is errors.Reason.INFERENCE_UNAVAILABLE
    assert error.metadata["cause"] == "MODEL_VERSION_NOT_FOUND"


async def test_predict_both_versions_fail(router: Any) -> None:
    """Shows that a failing fallback does not fall back again."""
    await router.create("safe", weights={2: 10_000}, fallback_version=1)
    gone = errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "loading")
    router.peers.inference.version_errors = {1: gone, 2: gone}
    code, _ = await refusal(router.predict("safe"))
    assert code is grpc.StatusCode.UNAVAILABLE
    row = await last_record(router)
    assert (row["status"], row["chosen_version"]) == (grpc.StatusCode.UNAVAILABLE.value[0], 2)


async def test_predict_overloaded_inference(router: Any) -> None:
    """Shows that overload behind the router is passed on with a time to come back."""
    router.peers.inference.run.error = errors.ResourceExhaustedError(
        errors.Reason.OVERLOADED, "busy", retry_after_seconds=0.5
    )
    code, error = await refusal(router.predict())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason is errors.Reason.OVERLOADED
    assert error.retry_after_seconds == 0.5


async def test_predict_overloaded_itself(start_router: Any) -> None:
    """Shows that a full router turns requests away at once, and answers those it has taken."""
    async with start_router(waiting_predictions=5) as router:
        await router.create()
        gate = router.peers.inference.gates[1] = asyncio.Event()
        asks = [asyncio.create_task(router.predict(inputs=GIVEN)) for _ in range(12)]
        await until(lambda: sum(each.done() for each in asks) == 7)
        gate.set()
        answers = await asyncio.gather(*asks, return_exceptions=True)
    refused = [each for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert len(refused) == 7
    for each in refused:
        error = channel.from_rpc_error(each)
        assert error.reason is errors.Reason.OVERLOADED
        assert error.retry_after_seconds


async def test_predict_judges_rules(router: Any) -> None:
    """Shows that a rule rejects by field, value and rule, and that another one flags."""
    router.peers.validation.put(
        suite_pb2.Rule(
            rule_id="hours",
            severity=suite_pb2.SEVERITY_REJECT,
            range=suite_pb2.RangeRule(column="hour", min=0, max=23),
        ),
        suite_pb2.Rule(
            rule_id="airports",
            severity=suite_pb2.SEVERITY_FLAG,
            set=suite_pb2.SetRule(column="origin", values=[Value(string_value="EWR")]),
        ),
    )
    late = {"entities": ENTITIES, "inputs": REQUESTED | {"hour": Value(int_value=25)}}
    # The rules arrive when they do.
    async with asyncio.timeout(20):
        while (outcome := await outcome_of(router.predict(**late))) is None:
            await asyncio.sleep(0.01)
    code, error = outcome
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason is errors.Reason.RULE_VIOLATED
    assert error.violations[0].field == 'inputs["hour"]'
    assert "25" in error.message
    assert "hours" in error.message
    answer = await router.predict()
    assert degradations(answer) == [("DEGRADATION_KIND_RULE_FLAGGED", "airports")]


async def test_predict_without_rules_flagged(start_router: Any, peers: Any) -> None:
    """Shows that before the first rules answers say that nothing was checked."""
    peers.validation.is_silent = True
    async with start_router() as router:
        await router.create()
        answer = await router.predict()
        assert degradations(answer) == [("DEGRADATION_KIND_CHECKS_SKIPPED", "")]


async def test_predict_keeps_rules_over_restart(start_router: Any, peers: Any) -> None:
    """Shows that the last good rules hold while validation is away, over a restart too."""
    peers.validation.put(
        suite_pb2.Rule(rule_id="r", range=suite_pb2.RangeRule(column="hour", max=23))
    )
    async with start_router() as router:
        await router.create()
        # Both files are written behind what they keep, that of routes at first without any.
        await until((router.spool / "rules.snapshot").exists)
        await until(route_file.RouteFile(router.spool / "routes.snapshot").read)
    peers.validation.is_silent = True
    async with start_router() as router:
        late = {"entities": ENTITIES, "inputs": REQUESTED | {"hour": Value(int_value=25)}}
        _, error = await refusal(router.predict(**late))
        assert error.reason is errors.Reason.RULE_VIOLATED


async def test_predict_spool_full_policies(start_router: Any, peers: Any) -> None:
    """Shows that a full spool rejects or flags, as the route says, and heals by itself."""
    peers.ingest.behaviour.error = errors.UnavailableError(errors.Reason.UNAVAILABLE, "away")
    async with start_router(spool_cap_bytes=1_048_576) as router:
        await router.create()
        await router.create(
            "loose", spool_full_policy=route_pb2.SPOOL_FULL_POLICY_ANSWER_UNRECORDED
        )
        code, error = None, None
        big = GIVEN | {"origin": Value(string_value="x" * 60_000)}
        for _ in range(30):
            try:
                await router.predict(inputs=big)
            except grpc.aio.AioRpcError as caught:
                code, error = caught.code(), channel.from_rpc_error(caught)
                break
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error is not None
        assert error.reason is errors.Reason.SPOOL_FULL
        answer = await router.predict("loose", inputs=big)
        assert degradations(answer) == [("DEGRADATION_KIND_UNRECORDED", "")]
        peers.ingest.behaviour.error = None
        async with asyncio.timeout(20):
            while await outcome_of(router.predict(inputs=big)) is not None:
                await asyncio.sleep(0.05)
        answer = await router.predict(inputs=big)
        assert (await recorded(router, answer.prediction_id))["status"] == 0


async def test_predict_large_texts_share_calls(router: Any) -> None:
    """Shows that rows which do not fit into one message together are answered all the same."""
    router.peers.inference.run.delay_seconds = 0.01
    big = GIVEN | {"origin": Value(string_value="ü" * 32_000)}
    answers = await asyncio.gather(*(router.predict(inputs=big, timeout=20) for _ in range(150)))
    assert len({answer.prediction_id for answer in answers}) == 150
    for answer in answers:
        assert (await recorded(router, answer.prediction_id))["status"] == 0
    assert max(each.ByteSize() for each in router.peers.ingest.records) < 2**21
