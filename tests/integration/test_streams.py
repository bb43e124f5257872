"""Streams and request ids by real services, through the client: the answers are those of single calls."""

import polars as pl
import pytest
from tests.support import parcels
from tests.support.house import SECONDS, House

from setpoint_client import Question, errors
from setpoint_columns import interop
from setpoint_runtime import ids

KEYS = ("depot", "crew")


def asked(home: House) -> pl.DataFrame:
    """Some questions, without what the router does not know."""
    return home.questions().select(*KEYS, *parcels.REQUEST_FIELDS, "sent_time").head(120)


async def test_frames_are_answered_as_one(home: House) -> None:
    """Shows that a set sent in parts gets what it gets at once, row for row."""
    rows = asked(home)
    whole = await home.client.predict_batch(
        parcels.ROUTE, rows, event_time_column="sent_time", timeout=SECONDS
    )
    parts = [rows.slice(start, 50) for start in range(0, rows.height, 50)]
    found = [
        interop.to_polars(each.columns)
        async for each in home.client.predict_batches(
            parcels.ROUTE, parts, event_time_column="sent_time", timeout=SECONDS
        )
    ]
    assert [each.height for each in found] == [50, 50, 20]
    assert (
        pl.concat(found)
        .drop("prediction_id")
        .equals(interop.to_polars(whole.columns).drop("prediction_id"))
    )


async def test_questions_are_answered_as_single_calls(home: House) -> None:
    """Shows that a question of a stream gets what it would get alone, and is repeated by its id."""
    questions = {}
    for number, row in enumerate(asked(home).iter_rows(named=True)):
        inputs = {name: row[name] for name in parcels.REQUEST_FIELDS}
        questions[str(number)] = Question(
            id=str(number),
            entities={name: row[name] for name in KEYS},
            inputs=inputs,
            event_time=row["sent_time"],
            request_id=ids.uuid7(),
        )
    answers = {
        each.id: each.get()
        async for each in home.client.predict_stream(
            parcels.ROUTE, questions.values(), timeout_each=SECONDS, timeout=SECONDS
        )
    }
    assert answers.keys() == questions.keys()
    for key in list(questions)[::17]:
        question = questions[key]
        alone = await home.client.predict(
            parcels.ROUTE,
            entities=question.entities,
            inputs=question.inputs,
            event_time=question.event_time,
            timeout=SECONDS,
        )
        assert alone.outputs == answers[key].outputs
        assert alone.prediction_id != answers[key].prediction_id
        again = await home.client.predict(
            parcels.ROUTE,
            entities=question.entities,
            inputs=question.inputs,
            event_time=question.event_time,
            request_id=question.request_id,
            timeout=SECONDS,
        )
        assert again.replayed
        assert again.prediction_id == answers[key].prediction_id
        with pytest.raises(errors.AlreadyExistsError):
            await home.client.predict(
                parcels.ROUTE, inputs={}, request_id=question.request_id, timeout=SECONDS
            )
