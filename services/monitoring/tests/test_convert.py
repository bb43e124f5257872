from collections.abc import Callable
from typing import Any

import pytest

from setpoint.common.v1 import column_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint_columns import Column, Columns, DataType, proto
from setpoint_monitoring import convert, ports, testing
from setpoint_monitoring.domain.records import VersionKey
from setpoint_monitoring.testing import START
from setpoint_runtime import errors, ids

Records = prediction_pb2.PredictionRecords


def changed(batch: column_pb2.ColumnBatch, column: Column | None, without: str = "") -> None:
    """Put a column in place of one of a batch, or take one away."""
    table = proto.from_proto(batch)
    name = column.name if column is not None else without
    kept = [each for each in table.columns if each.name != name]
    batch.CopyFrom(proto.to_proto(Columns(table.rows, [*kept, *([column] if column else [])])))


def with_column(name: str, values: list[Any], dtype: DataType) -> Callable[[Records], None]:
    return lambda record: changed(record.predictions, Column.from_list(name, values, dtype))


def test_record_round_trip() -> None:
    """A record that was taken apart is found again in its payload."""
    record = testing.record([START, START + 1], scores=[0.5, float("nan")], failed=[False, False])
    again = convert.RecordCodec().decode(record.payload)
    assert again == record
    assert [entry.score for entry in record.entries] == [0.5, None]
    assert record.version == testing.V1


def test_record_of_failed() -> None:
    """A failed prediction has no score, whatever stands in the outputs."""
    message = testing.message([START, START + 1], failed=[True, False])
    record = convert.record_from_proto(message, "record")
    assert [entry.score for entry in record.entries] == [None, 0.25]
    message.outputs.Clear()
    record = convert.record_from_proto(message, "record")
    assert [entry.score for entry in record.entries] == [None, None]


def common(**texts: list[str]) -> column_pb2.ColumnBatch:
    """Return what the predictions of a record are said to share."""
    columns = {name: (DataType.STRING, values) for name, values in texts.items()}
    return proto.to_proto(Columns.from_dict(columns))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.predictions.Clear(), "record.predictions"),
        (lambda r: changed(r.predictions, None, "prediction_id"), "record.predictions"),
        (lambda r: changed(r.predictions, None, "status"), "record.predictions"),
        (
            with_column("prediction_id", ["x", ids.uuid7()], DataType.STRING),
            "record.predictions.prediction_id[0]",
        ),
        (
            with_column("prediction_id", [ids.uuid7(), None], DataType.STRING),
            "record.predictions.prediction_id",
        ),
        (with_column("event_time", [1, 2], DataType.INT64), "record.predictions.event_time"),
        (with_column("status", [0, 0], DataType.INT64), "record.predictions.status"),
        (
            with_column("arrival_time", ["a", "b"], DataType.STRING),
            "record.predictions.arrival_time",
        ),
        (with_column("error", [1, 2], DataType.INT32), "record.predictions.error"),
        (lambda r: setattr(r.inputs, "rows", 3), "record.inputs"),
        (lambda r: r.inputs.CopyFrom(testing.message([1]).inputs), "record.inputs.rows"),
        (lambda r: r.outputs.CopyFrom(testing.message([1]).outputs), "record.outputs.rows"),
        (lambda r: r.input_statuses.append(b"\1\1"), "record.input_statuses"),
        (lambda r: r.input_statuses.__setitem__(0, b"\1"), "record.input_statuses[0]"),
        (lambda r: r.input_event_times.__setitem__(0, b"\1"), "record.input_event_times[0]"),
        (lambda r: setattr(r, "route", "a\0b"), "record.route"),
        (lambda r: r.common.CopyFrom(common(caller=["a", "b"])), "record.common.rows"),
        (lambda r: r.common.CopyFrom(common(error=["a"])), "record.common.error"),
        (lambda r: r.common.CopyFrom(common(features_microseconds=["a"])), "record.common"),
        (lambda r: setattr(r.model_version, "model", "\0"), "record.model_version.model"),
    ],
)
def test_record_names_malformed(change: Callable[[Records], object], field: str) -> None:
    """A malformed record is refused by the name of what is wrong with it."""
    message = testing.message([START, START + 1])
    change(message)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        convert.record_from_proto(message, "record")
    assert caught.value.violations[0].field.startswith(field)


ID = ids.uuid7()


def test_outcomes_from_proto() -> None:
    """Outcomes come with their time of arrival, or arrive now."""
    batch = testing.outcomes([(ID, 1.0, 5), (ID, 0.0, 6)], arrivals=[7, None])
    assert [each.arrival_time for each in convert.outcomes_from_proto(batch, 99)] == [7, 99]
    (only,) = convert.outcomes_from_proto(testing.outcomes([(ID, 1.0, 5)]), 99)
    assert (only.prediction_id, only.label, only.event_time, only.arrival_time) == (ID, 1.0, 5, 99)


def test_outcomes_of_one_prediction_arrive_in_order() -> None:
    """Of two outcomes that arrive now the latter is the later one, so that it corrects the first."""
    other = ids.uuid7()
    batch = testing.outcomes([(ID, 1.0, 5), (other, 1.0, 5), (ID, 0.0, 5)])
    assert [each.arrival_time for each in convert.outcomes_from_proto(batch, 99)] == [99, 99, 100]


def test_story_of_what_a_batch_shares() -> None:
    """What a record says once for all, or leaves out as given, is told of each prediction."""
    message = testing.message([START, START + 1])
    rows = proto.from_proto(message.predictions)
    left_out = rows.without("arrival_time", "reply_time", "assignment_key", "queue_microseconds")
    message.predictions.CopyFrom(proto.to_proto(left_out))
    shared = rows.slice(0, 1).select(["arrival_time", "reply_time", "queue_microseconds"])
    message.common.CopyFrom(proto.to_proto(shared))
    message.ClearField("input_statuses")
    message.ClearField("input_event_times")
    record = convert.record_from_proto(message, "record")
    stored = ports.StoredPrediction(record.payload, 1, 1, ())
    story = convert.prediction_to_proto(stored)
    assert (story.arrival_time, story.reply_time) == (START + 5, START + 45)
    assert story.stage_microseconds == {"queue": 7, "total": 40}
    assert story.assignment_key == story.prediction_id == rows["prediction_id"].item(1)
    [provenance] = story.provenance
    assert (provenance.input, provenance.status) == ("x", definition_pb2.FEATURE_STATUS_GIVEN)
    assert not provenance.HasField("event_time")


def test_record_tells_chosen_version() -> None:
    """A row for which another version stood in says which one had been chosen."""
    record = testing.record([START, START + 1], chosen=[None, 2])
    assert [each.chosen_version for each in record.entries] == [None, 2]
    for position, chosen in ((0, 1), (1, 2)):
        stored = ports.StoredPrediction(record.payload, position, 1, ())
        story = convert.prediction_to_proto(stored)
        assert (story.model_version.version, story.chosen_version) == (1, chosen)


@pytest.mark.parametrize(
    ("column", "field"),
    [
        (Column.from_list("prediction_id", ["x"], DataType.STRING), "outcomes.prediction_id[0]"),
        (Column.from_list("prediction_id", [1], DataType.INT64), "outcomes.prediction_id"),
        (Column.from_list("label", [float("nan")], DataType.FLOAT64), "outcomes.label[0]"),
        (Column.from_list("label", [float("inf")], DataType.FLOAT64), "outcomes.label[0]"),
        (Column.from_list("label", [None], DataType.FLOAT64), "outcomes.label"),
        (Column.from_list("label", [1], DataType.INT64), "outcomes.label"),
        (Column.from_list("event_time", [None], DataType.TIMESTAMP), "outcomes.event_time"),
        (Column.from_list("arrival_time", ["now"], DataType.STRING), "outcomes.arrival_time"),
    ],
)
def test_outcomes_name_malformed(column: Column, field: str) -> None:
    """A malformed outcome is refused by column and row."""
    batch = testing.outcomes([(ID, 1.0, 5)])
    changed(batch, column)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        convert.outcomes_from_proto(batch, 99)
    assert caught.value.violations[0].field == field


def test_prediction_to_proto_tells_all() -> None:
    """The story of one row holds what the router wrote, and what happened."""
    record = testing.record([START, START + 100], x=[1.5, None], failed=[False, True])
    happened = tuple(testing.labels(record, [1.0, 0.0])[1:])
    stored = ports.StoredPrediction(record.payload, 1, START + 500, happened)
    story = convert.prediction_to_proto(stored)
    assert story.prediction_id == record.entries[1].prediction_id
    assert (story.slot, story.assignment_key, story.route_revision) == (1, "key 1", 3)
    assert (story.status, story.error) == (14, "MODEL_UNAVAILABLE: gone")
    assert dict(story.stage_microseconds) == {"queue": 7, "total": 40}
    assert proto.from_proto(story.inputs)["x"].to_list() == [None]
    assert [(each.input, each.event_time) for each in story.provenance] == [("x", START + 90)]
    assert [each.label for each in story.outcomes] == [0.0]
    first = convert.prediction_to_proto(ports.StoredPrediction(record.payload, 0, 1, ()))
    assert list(first.degradations) == ["STALE:x", "DEFAULT:y"]


def member(
    version: int, scores: list[float | None], errors_: list[str | None] | None = None
) -> Any:
    """Returns what a member of an ensemble answered."""
    failures = None
    if errors_ is not None:
        failures = proto.to_proto(Columns.from_dict({"error": (DataType.STRING, errors_)}))
    outputs = Columns.from_dict({"probability": (DataType.FLOAT32, scores)})
    return prediction_pb2.MemberAnswers(
        version=version, weight=version, outputs=proto.to_proto(outputs), failures=failures
    )


def test_prediction_to_proto_tells_members() -> None:
    """Each member of an ensemble is told with what it answered, or why it did not."""
    members = [member(1, [0.5, 0.25]), member(2, [0.75, None], [None, "INTERNAL: broke"])]
    record = testing.record([START, START], version=VersionKey("late", 0), members=members)
    both = convert.prediction_to_proto(ports.StoredPrediction(record.payload, 0, 1, ())).members
    assert [proto.from_proto(each.outputs)["probability"].to_list() for each in both] == [
        [0.5],
        [0.75],
    ]
    assert [(each.version, each.weight, each.error) for each in both] == [(1, 1, ""), (2, 2, "")]
    first, second = convert.prediction_to_proto(
        ports.StoredPrediction(record.payload, 1, 1, ())
    ).members
    assert proto.from_proto(first.outputs)["probability"].to_list() == [0.25]
    assert (second.error, len(second.outputs.columns)) == ("INTERNAL: broke", 0)


def test_record_refuses_members_of_other_length() -> None:
    """A member must have answered the rows that there are."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        testing.record([START], members=[member(1, [0.5]), member(2, [0.5, 0.5])])
    assert caught.value.violations[0].field == "record.members[1].outputs.rows"


def test_prediction_to_proto_tells_what_the_caller_brought() -> None:
    """A row's own id and headers are told, and the replica of a row that was answered."""
    made = testing.message([START, START + 1], failed=[False, True])
    named = Column.from_list("request_id", ["mine", None], DataType.STRING)
    made.predictions.columns.append(proto.to_proto(Columns(2, [named])).columns[0])
    headers = {"x-tenant": (DataType.STRING, [None, "b"])}
    made.headers.CopyFrom(proto.to_proto(Columns.from_dict(headers)))
    made.inference_replica = "10.0.0.1:7401"
    payload = convert.record_from_proto(made, "record").payload
    first, second = (
        convert.prediction_to_proto(ports.StoredPrediction(payload, position, 1, ()))
        for position in range(2)
    )
    assert (first.request_id, dict(first.headers)) == ("mine", {})
    assert (second.request_id, dict(second.headers)) == ("", {"x-tenant": "b"})
    assert (first.inference_replica, second.inference_replica) == ("10.0.0.1:7401", "")


def test_prediction_to_proto_tells_the_replica_of_each_row() -> None:
    """Where several replicas answered the record's rows each row has its own."""
    made = testing.message([START, START + 1])
    named = Column.from_list("inference_replica", ["a:1", "b:2"], DataType.STRING)
    made.predictions.columns.append(proto.to_proto(Columns(2, [named])).columns[0])
    payload = convert.record_from_proto(made, "record").payload
    stories = [
        convert.prediction_to_proto(ports.StoredPrediction(payload, position, 1, ()))
        for position in range(2)
    ]
    assert [each.inference_replica for each in stories] == ["a:1", "b:2"]


def test_record_refuses_malformed_headers() -> None:
    """Headers of other rows, or that are no text, are refused by name."""
    for columns in (
        {"x-tenant": (DataType.STRING, ["a", "b"])},
        {"x-tenant": (DataType.INT64, [1])},
    ):
        made = testing.message([START])
        made.headers.CopyFrom(proto.to_proto(Columns.from_dict(columns)))
        with pytest.raises(errors.InvalidArgumentError, match=r"record\.headers"):
            convert.record_from_proto(made, "record")
