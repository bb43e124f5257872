import random
from typing import Any

import pytest
import redis

from setpoint.feature.v1 import audit_service_pb2 as pb
from setpoint.feature.v1 import definition_pb2
from setpoint_columns import Columns, DataType, proto, value
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Running, Start
from setpoint_runtime import errors

MINUTE = 60_000_000
BOUNDARIES = [definition_pb2.BOUNDARY_INCLUSIVE, definition_pb2.BOUNDARY_EXCLUSIVE]


async def prepare(running: Running, **options: Any) -> None:
    """Registers planes with a count, and a feature set of it."""
    await running.client.entity("plane", plane=DataType.INT64)
    await running.client.view("planes", "plane", [("count", DataType.INT64, 7)], **options)
    await running.client.feature_set("all", [testing.reference("planes", "count", "planes")])


def rows(*given: tuple[int, int, int, int]) -> Columns:
    """Returns rows of planes: plane, event time and arrival relative to now, count."""
    table: testing.Table = {
        "plane": (DataType.INT64, [each[0] for each in given]),
        "event_time": (DataType.TIMESTAMP, [NOW + each[1] for each in given]),
        "created_time": (DataType.TIMESTAMP, [NOW + each[2] for each in given]),
        "count": (DataType.INT64, [each[3] for each in given]),
    }
    return Columns.from_dict(table)


def question(plane: int | None, time: int, **options: Any) -> pb.ExplainFeatureRequest:
    """Returns a question about the count of a plane."""
    entity = Columns.from_dict({"plane": (DataType.INT64, [plane])})
    request = pb.ExplainFeatureRequest(
        column="planes", entity=proto.to_proto(entity), as_of_time=time, **options
    )
    request.feature_set.name = "all"
    return request


def verdicts(found: pb.ExplainFeatureResponse) -> list[tuple[int, int]]:
    """Returns value and verdict of each candidate."""
    return [(each.value.int_value, each.verdict) for each in found.candidates]


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_explained_winner_equals_the_join(
    start: Start, boundary: definition_pb2.Boundary
) -> None:
    """What is said to be served is what GetHistoricalFeatures serves, whatever was written and asked."""
    seed = random.Random(str(boundary))
    async with start() as running:
        await prepare(running, ttl_microseconds=12, boundary=boundary)
        for _ in range(4):
            given = [
                (seed.randrange(2), event, min(0, event + seed.randrange(-2, 15)), number)
                for number, event in enumerate(seed.choices(range(-30, 1), k=12))
            ]
            await running.client.write("planes", rows(*given))
        for by_event in (False, True):
            for plane, offset in [
                (seed.choice([0, 1, 2]), seed.randrange(-32, 6)) for _ in range(15)
            ]:
                found = await running.audit.ExplainFeature(
                    question(plane, NOW + offset, as_of_event_time=by_event)
                )
                spine = Columns.from_dict(
                    {
                        "plane": (DataType.INT64, [plane]),
                        "event_time": (DataType.TIMESTAMP, [NOW + offset]),
                    }
                )
                (joined,) = await running.client.historical("all", spine, by_event=by_event)
                event_time = found.event_time if found.HasField("event_time") else -1
                assert joined.values == {"planes": [value.from_proto(found.value)]}
                assert (joined.statuses, joined.event_times) == ([[found.status]], [[event_time]])
                won = [each for each in found.candidates if each.verdict <= 2]
                assert [each.event_time for each in won] == [
                    time for time in [event_time] if time >= 0
                ]


async def test_explain_tells_what_the_online_store_holds(start: Start, valkey_url: str) -> None:
    """The copy is told as it is, also when somebody took it away or the store does not answer."""
    async with start() as running:
        await prepare(running)
        await running.client.write("planes", rows((1, -9, -9, 3), (1, -5, -5, 4)))
        found = await running.audit.ExplainFeature(question(1, NOW))
        assert found.online.is_greatest
        assert (found.online.sequence, found.online.value.int_value) == (2, 4)
        assert found.online.served_value == found.value
        before = (await running.audit.ExplainFeature(question(1, NOW - 6))).online
        assert (before.served_status, before.served_value.int_value) == (
            definition_pb2.FEATURE_STATUS_DEFAULT,
            7,
        )
        with redis.Redis.from_url(valkey_url) as store:
            (key,) = (each for each in store.scan_iter() if b"watermark" not in each)
            store.delete(key)
        lost = (await running.audit.ExplainFeature(question(1, NOW))).online
        assert (lost.is_found, lost.is_greatest, lost.problem) == (False, False, "")
        assert lost.served_status == definition_pb2.FEATURE_STATUS_DEFAULT
        unknown = await running.audit.ExplainFeature(question(None, NOW))
        assert (list(unknown.candidates), unknown.status) == (
            [],
            definition_pb2.FEATURE_STATUS_DEFAULT,
        )


async def test_pages_lie_around_the_winner(start: Start) -> None:
    """The first page has the winner in its middle; tokens lead both ways over every row, once."""
    async with start() as running:
        await prepare(running)
        many = [(1, MINUTE * (number - 50), MINUTE * (number - 50), number) for number in range(51)]
        await running.client.write("planes", rows(*many))
        time = NOW - 20 * MINUTE
        first = await running.audit.ExplainFeature(question(1, time, page_size=9))
        assert [each[0] for each in verdicts(first)] == list(range(34, 25, -1))
        assert first.value.int_value == 30
        assert {each.verdict: each.candidates for each in first.counts} == {
            pb.CANDIDATE_VERDICT_WON: 1,
            pb.CANDIDATE_VERDICT_OLDER: 30,
            pb.CANDIDATE_VERDICT_FUTURE: 20,
        }
        # What is written meanwhile moves no page.
        await running.client.write("planes", rows((1, -30 * MINUTE - 1, -30 * MINUTE - 1, 99)))
        seen = [each[0] for each in verdicts(first)]
        token = first.next_page_token
        while token:
            page = await running.audit.ExplainFeature(
                question(1, time, page_size=7, page_token=token)
            )
            seen += [each[0] for each in verdicts(page)]
            token = page.next_page_token
        token = first.previous_page_token
        while token:
            page = await running.audit.ExplainFeature(
                question(1, time, page_size=5, page_token=token)
            )
            seen = [each[0] for each in verdicts(page)] + seen
            token = page.previous_page_token
        assert seen == list(range(50, -1, -1))
        other = question(1, time + 1, page_token=first.next_page_token)
        error = await testing.error_of(running.audit.ExplainFeature(other))
        assert error.reason is errors.Reason.INVALID_PAGE_TOKEN


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"column": "x"}, errors.Reason.UNKNOWN_FIELD, "column"),
        ({"view": "planes", "field": "count"}, errors.Reason.INVALID_FIELD, "feature_set"),
        ({"entity": {"rows": 2}}, errors.Reason.INVALID_FIELD, "entity.rows"),
        ({"entity": {"rows": 1}}, errors.Reason.ENTITY_KEY_MISSING, "entity.plane"),
    ],
)
async def test_bad_question_is_named(
    start: Start, change: dict[str, object], reason: errors.Reason, field: str
) -> None:
    """A question that makes no sense is refused with its path."""
    async with start() as running:
        await prepare(running)
        asked = question(1, NOW)
        for name in change:
            asked.ClearField(name)  # type: ignore[arg-type]  # names of fields
        asked.MergeFrom(pb.ExplainFeatureRequest(**change))  # type: ignore[arg-type]  # of their types
        error = await testing.error_of(running.audit.ExplainFeature(asked))
        assert (error.reason, error.violations[0].field) == (reason, field)
        missing = pb.ExplainFeatureRequest(view="planes", field="x", entity=question(1, NOW).entity)
        error = await testing.error_of(running.audit.ExplainFeature(missing))
        assert (error.reason, error.violations[0].field) == (errors.Reason.UNKNOWN_FIELD, "field")
