import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from setpoint_client import Columns, DataType, Degradation, FeatureSetVersion, errors
from setpoint_columns import proto as columns_proto
from setpoint_columns import value as values

_NOON = dt.datetime(2013, 1, 1, 12, tzinfo=dt.UTC)
_NOON_US = 1357041600000000


def test_predict_sends_and_reads_everything(client: Any, server: Any) -> None:
    """A prediction carries its question over and its answer back, whole."""
    answer = client.predict(
        "flight-delays",
        entities={"carrier": "UA"},
        inputs={"distance": 1400.5, "stops": 2, "note": None, "scheduled": _NOON},
        event_time=_NOON,
        assignment_key="UA-1",
    )
    request = server.requests[0]
    assert (request.route, request.assignment_key) == ("flight-delays", "UA-1")
    assert request.event_time == _NOON_US
    assert values.map_from_proto(request.entities) == {"carrier": "UA"}
    sent = values.map_from_proto(request.inputs)
    assert sent == {"distance": 1400.5, "stops": 2, "note": None, "scheduled": _NOON_US}
    assert answer.outputs == {"probability": 0.25, "late": False}
    assert answer.feature_set == FeatureSetVersion("flights", "ab12")
    assert answer.degradations == (Degradation("FEATURE_STALE", "wind"),)
    assert (answer.assignment.model, answer.assignment.version) == ("delays", 3)
    assert (answer.assignment.reason, answer.assignment.slot) == ("SLOT", 42)


def test_predict_refuses_bad_values_without_a_call(client: Any, server: Any) -> None:
    """What the contract cannot carry is named before anything is sent."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^inputs\.x: "):
        client.predict("r", inputs={"x": object()})
    naive = _NOON.replace(tzinfo=None)
    with pytest.raises(errors.InvalidArgumentError, match=r"^event_time: .* must have a time zone"):
        client.predict("r", event_time=naive)
    assert server.requests == []


_ROWS: dict[str, list[Any]] = {"carrier": ["UA", "AA", None], "distance": [1.5, 2.5, 3.5]}


@pytest.mark.parametrize(
    "rows, kind",
    [
        (pd.DataFrame(_ROWS, index=[7, 8, 9]), pd.DataFrame),
        (pl.DataFrame(_ROWS), pl.DataFrame),
        (pl.LazyFrame(_ROWS), pl.LazyFrame),
        (pa.table(_ROWS), pa.Table),
        (
            Columns.from_dict(
                {
                    "carrier": (DataType.STRING, _ROWS["carrier"]),
                    "distance": (DataType.FLOAT64, _ROWS["distance"]),
                }
            ),
            Columns,
        ),
        (
            [
                {"carrier": "UA", "distance": 1.5},
                {"carrier": "AA", "distance": 2.5},
                {"distance": 3.5},
            ],
            list,
        ),
    ],
)
def test_predict_batch_gives_back_what_it_got(
    client: Any, server: Any, rows: Any, kind: type
) -> None:
    """Each kind of frame is sent as the same columns and comes back as its own kind."""
    answer = client.predict_batch("r", rows, event_time=_NOON, assignment_key_column="carrier")
    request = server.requests[0]
    sent = columns_proto.from_proto(request.rows)
    assert sent["carrier"].to_list() == _ROWS["carrier"]
    assert sent["distance"].to_list() == _ROWS["distance"]
    assert (request.event_time, request.assignment_key_column) == (_NOON_US, "carrier")
    frame = answer.frame
    assert isinstance(frame, kind)
    if isinstance(frame, pd.DataFrame):
        assert frame.index.tolist() == [7, 8, 9]
    assert answer.columns["probability"].to_list() == [0.5] * 3
    assert answer.route_revisions == (7,)
    assert not answer.failed.any()
    assert len(answer.to_pandas()) == len(answer.to_polars()) == len(answer.to_arrow()) == 3


def test_predict_batch_cuts_large_frames(client: Any, server: Any) -> None:
    """Many rows, or wide ones, go in pieces and come back as one table in order."""
    answer = client.predict_batch("r", pl.DataFrame({"x": range(25_000)}))
    assert [request.rows.rows for request in server.requests] == [10_000, 10_000, 5_000]
    assert answer.columns.rows == 25_000
    assert np.flatnonzero(answer.failed)[:2].tolist() == [4, 9]
    assert answer.columns["error"].item(4) == "NULL_REFUSED: x"
    server.requests.clear()
    client.predict_batch("r", pl.DataFrame({"x": ["é" * 50_000] * 64}))
    assert len(server.requests) > 1
    assert all(request.ByteSize() < 4 * 1024 * 1024 for request in server.requests)
    assert sum(request.rows.rows for request in server.requests) == 64


def test_predict_batch_of_no_rows(client: Any) -> None:
    """An empty frame is answered with an empty one."""
    answer = client.predict_batch("r", pl.DataFrame({"x": []}, schema={"x": pl.Float64}))
    assert answer.columns.rows == 0


def test_explain_assignment(client: Any, server: Any) -> None:
    """The assignment of a key is told with its reason in words."""
    answer = client.explain_assignment("r", "UA", time=_NOON)
    assert server.requests[0].time == _NOON_US
    assert answer.explanation == "slot 42 belongs to version 3"


def test_write_features_makes_stable_batch_ids(client: Any, server: Any) -> None:
    """Pieces of one batch have ids of their own that a repeat gives again."""
    frame = pl.DataFrame({"carrier": ["UA"] * 250_000, "event_time": [_NOON] * 250_000})
    written = client.write_features("delays", frame)
    assert (written.rows_written, written.online_updated) == (250_000, 250_000 - 3)
    assert written.online_applied
    assert not written.replayed
    first = [request.batch_id for request in server.requests]
    assert first[0] == written.batch_id
    assert len(set(first)) == 3
    server.requests.clear()
    client.write_features("delays", frame, batch_id=written.batch_id)
    assert [request.batch_id for request in server.requests] == first
    with pytest.raises(errors.InvalidArgumentError, match="batch_id"):
        client.write_features("delays", frame, batch_id="mine")


def test_integers_are_microseconds_where_times_are_wanted(client: Any, server: Any) -> None:
    """A time may be given as the contract has it, whatever the frame."""
    rows = [{"carrier": "UA", "event_time": _NOON_US, "created_time": _NOON_US}]
    client.write_features("delays", rows)
    sent = columns_proto.from_proto(server.requests[0].rows)
    assert sent["event_time"].dtype is sent["created_time"].dtype is DataType.TIMESTAMP
    client.predict_batch("r", rows, event_time_column="event_time")
    sent = columns_proto.from_proto(server.requests[1].rows)
    assert sent["event_time"].dtype is DataType.TIMESTAMP
    client.get_historical_features("flights", rows)
    sent = columns_proto.from_proto(server.requests[3].spine)
    assert sent["event_time"].to_list() == [_NOON_US]


def test_write_features_refuses_local_times(client: Any) -> None:
    """A time without a zone is refused by name, whatever the frame."""
    naive = pl.DataFrame({"event_time": [_NOON.replace(tzinfo=None)]})
    for frame in (naive, naive.to_pandas()):
        with pytest.raises(
            errors.InvalidArgumentError, match=r"event_time: .* must have a time zone"
        ):
            client.write_features("delays", frame)


@pytest.mark.parametrize("as_of, sent", [(None, []), (_NOON, [_NOON_US]), ([1, 2], [1, 2])])
def test_get_online_features(client: Any, server: Any, as_of: Any, sent: list[int]) -> None:
    """Values come with status and event time, rows as the entities."""
    answer = client.get_online_features(
        "flights", [{"carrier": "UA"}, {"carrier": "AA"}], as_of=as_of
    )
    assert list(server.requests[0].as_of_times) == sent
    assert answer.frame == [{"wind": 0.0, "sky": None}, {"wind": 1.0, "sky": None}]
    assert answer.feature_set == FeatureSetVersion("flights", "ab12")
    assert answer.status_names("wind") == ["FRESH", "FRESH"]
    assert answer.status_names("sky") == ["MISSING", "MISSING"]
    assert answer.event_times["wind"].tolist() == [0, 1]
    assert answer.event_times["sky"].tolist() == [-1, -1]


def test_get_online_features_from_the_history(client: Any, server: Any) -> None:
    """Whoever reads is told of views that there was no online copy of."""
    assert client.get_online_features("flights", [{"carrier": "UA"}]).history_views == ()
    server.history_views = ["weather"]
    answer = client.get_online_features("flights", [{"carrier": "UA"}])
    assert answer.history_views == ("weather",)


def test_get_online_features_counts_times(client: Any) -> None:
    """Several times must be as many as rows."""
    with pytest.raises(errors.InvalidArgumentError, match="as_of"):
        client.get_online_features("flights", [{"carrier": "UA"}], as_of=[1, 2])


def test_get_online_features_refuses_short_statuses(client: Any, server: Any) -> None:
    """An answer whose parts do not fit each other is an error, not a wrong table."""
    server.loses_statuses = True
    with pytest.raises(errors.DataLossError, match="sky"):
        client.get_online_features("flights", [{"carrier": "UA"}])


_SPINE: dict[str, list[Any]] = {
    "carrier": ["UA", "AA"],
    "event_time": [_NOON, _NOON],
    "day": [dt.date(2013, 1, 1), dt.date(2013, 1, 1)],
    "late": [True, False],
}


@pytest.mark.parametrize(
    "spine",
    [
        pl.DataFrame(_SPINE),
        pl.LazyFrame(_SPINE),
        pd.DataFrame(_SPINE, index=[3, 4]),
        pa.table(_SPINE),
        [dict(zip(_SPINE, row, strict=True)) for row in zip(*_SPINE.values(), strict=True)],
    ],
)
def test_get_historical_features_joins_beside_the_spine(
    client: Any, server: Any, spine: Any
) -> None:
    """Only keys and times are sent; the answer stands beside all columns of the spine."""
    answer = client.get_historical_features("flights", spine, as_of_event_time=True)
    first = server.requests[1]
    assert {column.name for column in first.spine.columns} == {"carrier", "event_time"}
    assert (first.feature_set.version, first.time_column, first.as_of_event_time) == (
        "ab12",
        "event_time",
        True,
    )
    frame = answer.frame
    assert type(frame) is type(spine)
    if isinstance(frame, list):
        frame = pl.DataFrame(frame)
    elif isinstance(frame, pd.DataFrame):
        assert frame.index.tolist() == [3, 4]
    frame = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    names = frame.column_names if isinstance(frame, pa.Table) else list(frame.columns)
    assert names == ["carrier", "event_time", "day", "late", "wind", "sky"]
    assert answer.columns["wind"].to_list() == [0.0, 1.0]


def test_get_historical_features_streams_pieces(client: Any, server: Any) -> None:
    """A long spine goes in pieces, the header with the first alone."""
    spine = pl.DataFrame({"carrier": ["UA"] * 52_000, "event_time": [_NOON] * 52_000})
    answer = client.get_historical_features("flights", spine)
    sent = server.requests[1:]
    assert [request.spine.rows for request in sent] == [25_000, 25_000, 2_000]
    assert [request.feature_set.name for request in sent] == ["flights", "", ""]
    assert answer.frame.height == 52_000


@pytest.mark.parametrize(("features", "expected"), [(100, [4_000, 1_000]), (1_000, [1_000] * 5)])
def test_get_historical_features_asks_for_messages_of_its_answer(
    client: Any, server: Any, features: int, expected: list[int]
) -> None:
    """Of a wide feature set fewer rows are asked for at once, so that an answer is about a message."""
    server.features = features
    spine = pl.DataFrame({"carrier": ["UA"] * 5_000, "event_time": [_NOON] * 5_000})
    client.get_historical_features("flights", spine)
    first, *others = [request.spine.rows for request in server.requests[1:]]
    assert first + sum(others) == 5_000
    assert first == pytest.approx(expected[0], rel=0.2)
    assert len(others) == len(expected) - 1


def test_get_historical_features_names_what_is_wrong(client: Any) -> None:
    """A missing key and a feature that the spine has already are named."""
    with pytest.raises(errors.InvalidArgumentError, match="carrier"):
        client.get_historical_features("flights", pl.DataFrame({"event_time": [_NOON]}))
    taken = pl.DataFrame({"carrier": ["UA"], "event_time": [_NOON], "wind": [1.0]})
    answer = client.get_historical_features("flights", taken)
    with pytest.raises(errors.InvalidArgumentError, match="wind"):
        _ = answer.frame


def test_record_outcomes_casts_labels(client: Any, server: Any) -> None:
    """Flags and integers are labels too; the order of columns does not matter."""
    frame = pd.DataFrame(
        {"label": [True, False], "event_time": [_NOON, _NOON], "prediction_id": ["a", "b"]}
    )
    assert client.record_outcomes(frame).stored == 2
    sent = columns_proto.from_proto(server.requests[0].outcomes)
    assert sent["label"].to_list() == [1.0, 0.0]
    assert sent["event_time"].to_list() == [_NOON_US] * 2
    client.record_outcome("a", 1, _NOON_US, arrival_time=_NOON)
    sent = columns_proto.from_proto(server.requests[1].outcomes)
    assert sent.row(0) == {
        "prediction_id": "a",
        "label": 1.0,
        "event_time": _NOON_US,
        "arrival_time": _NOON_US,
    }


@pytest.mark.parametrize(
    "table, field",
    [
        ([{"prediction_id": "a", "label": 1.0}], "event_time"),
        ([{"prediction_id": "a", "label": "late", "event_time": 1}], "label"),
        ([{"prediction_id": "a", "label": 1.0, "event_time": 1, "note": "x"}], "note"),
    ],
)
def test_record_outcomes_names_what_is_wrong(client: Any, table: Any, field: str) -> None:
    """A missing, unknown or wrongly typed column is named before anything is sent."""
    with pytest.raises(errors.InvalidArgumentError, match=f"^{field}"):
        client.record_outcomes(table)


def test_get_prediction_tells_the_whole_story(client: Any) -> None:
    """The story has plain values, aware times and the message behind it."""
    story = client.get_prediction("0190a8c0-0000-7000-8000-000000000001")
    assert story.event_time == dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)
    assert story.inputs == {"carrier": "UA"}
    assert story.outputs == {"p": 0.5}
    assert story.provenance["carrier"].status == "GIVEN"
    assert story.provenance["carrier"].event_time is None
    assert story.provenance["wind"].event_time == dt.datetime(1970, 1, 1, 0, 0, 0, 500_000, dt.UTC)
    assert story.degradations == (Degradation("RULE_FLAGGED", "range_wind"),)
    assert story.outcomes[0].label == 1.0
    assert story.stage_microseconds == {"total": 900}
    assert (story.inference_replica, story.request_id) == ("10.0.0.1:7401", "mine")
    assert story.headers == {"x-tenant": "blue"}
    assert story.feature_set is None
    assert story.message.caller == "tests"
