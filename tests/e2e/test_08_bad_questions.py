"""Story 8: whatever callers ask, they are told what is wrong with it, and the servers go on."""

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from tests.support import questions
from tests.support import world as worlds
from tests.support.refusals import Refusal, refusal

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import router_service_pb2, router_service_pb2_grpc

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("still_answering")]

INVALID = grpc.StatusCode.INVALID_ARGUMENT

QUESTIONS: dict[str, tuple[Callable[[], questions.Request], str, str]] = {
    "missing key": (
        lambda: questions.without("entities", "depot"),
        "ENTITY_KEY_MISSING",
        'entities["depot"]',
    ),
    "unknown key": (
        lambda: questions.with_key("planet", questions.text("mars")),
        "UNKNOWN_FIELD",
        'entities["planet"]',
    ),
    "key of another type": (
        lambda: questions.with_key("depot", questions.number(1.5)),
        "WRONG_TYPE",
        'entities["depot"]',
    ),
    "missing input": (
        lambda: questions.without("inputs", "distance"),
        "MISSING_FIELD",
        'inputs["distance"]',
    ),
    "missing input of those that are all given": (
        questions.without_keys,
        "MISSING_FIELD",
        'inputs["sick_share"]',
    ),
    "unknown input": (
        lambda: questions.with_input("colour", questions.text("red")),
        "UNKNOWN_FIELD",
        'inputs["colour"]',
    ),
    "text for a number": (
        lambda: questions.with_input("distance", questions.text("far")),
        "WRONG_TYPE",
        'inputs["distance"]',
    ),
    "fraction for an integer": (
        lambda: questions.with_input("hour", questions.number(1.5)),
        "WRONG_TYPE",
        'inputs["hour"]',
    ),
    "number for a text": (
        lambda: questions.with_input("kind", questions.number(1.0)),
        "WRONG_TYPE",
        'inputs["kind"]',
    ),
    "null for a text": (
        lambda: questions.with_input("kind", questions.NULL),
        "NULL_REFUSED",
        'inputs["kind"]',
    ),
    "null for an integer": (
        lambda: questions.with_input("hour", questions.NULL),
        "NULL_REFUSED",
        'inputs["hour"]',
    ),
    "value without a kind": (
        lambda: questions.with_input("kind", value_pb2.Value()),
        "MISSING_FIELD",
        'inputs["kind"]',
    ),
    "text of a megabyte": (
        lambda: questions.with_input("kind", questions.text("x" * 2**20)),
        "TOO_LARGE",
        'inputs["kind"]',
    ),
    "key of a megabyte": (
        lambda: questions.with_key("depot", questions.text("x" * 2**20)),
        "TOO_LARGE",
        'entities["depot"]',
    ),
    "key of two kilobytes": (
        lambda: questions.with_key("depot", questions.text("x" * 2048)),
        "TOO_LARGE",
        'entities["depot"]',
    ),
    "key of two kilobytes without an assignment key": (
        questions.with_long_key_alone,
        "TOO_LARGE",
        'entities["depot"]',
    ),
    "assignment key of a megabyte": (
        lambda: questions.at(assignment_key="x" * 2**20),
        "TOO_LARGE",
        "assignment_key",
    ),
    "time before 1970": (lambda: questions.at(event_time=-1), "INVALID_FIELD", "event_time"),
    "value that a rule refuses": (
        lambda: questions.with_input("distance", questions.number(-1.0)),
        "RULE_VIOLATED",
        'inputs["distance"]',
    ),
    "level that a rule does not know": (
        lambda: questions.with_input("kind", questions.text("elephant")),
        "RULE_VIOLATED",
        'inputs["kind"]',
    ),
}


async def _predict(world: worlds.World, request: questions.Request) -> Refusal:
    return await refusal(world.services.router.Predict(request, timeout=worlds.CALL_SECONDS))


@pytest.mark.parametrize("case", QUESTIONS)
async def test_predict_names_what_is_wrong(world: worlds.World, case: str) -> None:
    """Proves that a bad question is refused with a reason and the name of its field."""
    make, reason, field = QUESTIONS[case]
    told = await _predict(world, make())
    assert (told.code, told.reason) == (INVALID, reason), told.text
    assert field in told.fields, told


async def test_predict_refuses_unknown_route(world: worlds.World) -> None:
    """Proves that a route nobody made is named."""
    told = await _predict(
        world, questions.Request(route="no-such-route", entities=questions.good().entities)
    )
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "ROUTE_NOT_FOUND")
    assert "no-such-route" in told.text


async def test_predict_answers_about_unknown_entity(world: worlds.World) -> None:
    """Proves that an entity nobody has heard of, or none at all, is answered and flagged."""
    for key in (questions.text("atlantis"), questions.NULL):
        answer = await world.services.router.Predict(
            questions.with_key("depot", key), timeout=worlds.CALL_SECONDS
        )
        kinds = router_service_pb2.DegradationKind
        flags = {
            f"{kinds.Name(each.kind).removeprefix('DEGRADATION_KIND_')}:{each.subject}"
            for each in answer.degradations
        }
        assert flags == {"FEATURE_MISSING:queue", "FEATURE_MISSING:staff"}
        assert 0 <= answer.outputs["probability"].double_value <= 1


async def test_predict_refuses_message_of_five_megabytes(world: worlds.World) -> None:
    """Proves that the transport turns away what no server would read, without closing the door."""
    address = world.stack.addresses["router"]
    unlimited = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, unlimited) as channel:
        router = router_service_pb2_grpc.RouterServiceStub(channel)
        large = questions.with_input("kind", questions.text("x" * 5 * 2**20))
        told = await refusal(router.Predict(large, timeout=worlds.CALL_SECONDS))
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger" in told.text
        await router.Predict(questions.good(), timeout=worlds.CALL_SECONDS)


async def test_predict_ends_at_an_expired_deadline(world: worlds.World) -> None:
    """Proves that a call without time is over in time, and others are answered."""
    calls = [world.services.router.Predict(questions.good(), timeout=0.0005) for _ in range(20)]
    told = await asyncio.gather(*(refusal(call) for call in calls))
    assert {each.code for each in told} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    await world.services.router.Predict(questions.good(), timeout=worlds.CALL_SECONDS)


async def test_bad_questions_leave_their_neighbours_alone(world: worlds.World) -> None:
    """Proves that questions which travel together fail and are answered each for itself."""
    router = world.services.router

    async def ask() -> None:
        answer = await router.Predict(questions.good(), timeout=worlds.CALL_SECONDS)
        assert 0 <= answer.outputs["probability"].double_value <= 1

    async def ask_badly(case: str) -> None:
        make, reason, _ = QUESTIONS[case]
        assert (await _predict(world, make())).reason == reason, case

    for _ in range(5):
        mixed = [each for case in QUESTIONS for each in (ask_badly(case), ask(), ask())]
        await asyncio.gather(*mixed)
