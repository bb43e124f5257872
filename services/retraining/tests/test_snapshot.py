from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from setpoint_columns import Column, Columns, DataType
from setpoint_retraining import ports, testing
from setpoint_retraining.service import snapshot
from setpoint_retraining.testing import FEATURE_SET, KNOWN_AT, FakeFeatures
from setpoint_retraining.training import table as tables
from setpoint_runtime import errors

RUN = "019a1b2c-3d4e-7f00-8a1b-2c3d4e5f6071"


def questions(keys: list[int]) -> Columns:
    return Columns.from_dict({"question": (DataType.INT64, keys)})


def labels(rows: list[tuple[int, bool | None]]) -> Columns:
    return Columns.from_dict(
        {
            "question": (DataType.INT64, [key for key, _ in rows]),
            "late": (DataType.BOOL, [label for _, label in rows]),
        }
    )


def test_join_labels_takes_newest() -> None:
    """Of several labels of one question the last one counts; a question without one is left out."""
    asked, known = snapshot.join_labels(
        questions([1, 2, 3]), labels([(1, True), (3, True), (1, False)]), ["question"], "late"
    )
    assert (asked.tolist(), known.tolist()) == ([0, 2], [2, 1])


def test_join_labels_null_takes_label_back() -> None:
    """A newer null says that the label is not known after all."""
    asked, _ = snapshot.join_labels(
        questions([1, 2]), labels([(1, True), (2, True), (1, None)]), ["question"], "late"
    )
    assert asked.tolist() == [1]


def test_join_labels_missing_field() -> None:
    """A label that the view does not have is named, with those that it has."""
    with pytest.raises(
        errors.FailedPreconditionError, match=r"label_field 'delay'.*late"
    ) as caught:
        snapshot.join_labels(questions([1]), labels([(1, True)]), ["question"], "delay")
    assert caught.value.reason is errors.Reason.UNKNOWN_FIELD


async def test_take_joins_everything() -> None:
    """The snapshot has features, request fields, keys, times and labels, row by row."""
    world = FakeFeatures()
    taken = await snapshot.take(world, testing.policy(), FEATURE_SET, KNOWN_AT, RUN)
    assert taken.inputs == ("x", "colour", "y")
    assert set(taken.table.names) == set(world.table.names)
    assert taken.table.select(world.table.names) == world.table.slice(0, taken.table.rows)
    assert taken.unlabelled_rows == world.table.rows - taken.table.rows


async def test_take_has_everything_kept() -> None:
    """The feature service gets the whole table to keep, labels included, once for each run."""

    class Keeping(FakeFeatures):
        async def historical(self, feature_set: ports.FeatureSetKey, spine: Columns) -> Columns:
            spines.append(spine.names)
            return await super().historical(feature_set, spine)

    spines: list[tuple[str, ...]] = []
    taken = [
        await snapshot.take(Keeping(), testing.policy(), FEATURE_SET, KNOWN_AT, run)
        for run in (RUN, RUN, RUN.replace("6071", "6072"))
    ]
    assert set(spines) == {("question", "event_time", "y", tables.LABEL_TIME, tables.LABEL)}
    tokens = [each.feature_snapshot_id for each in taken]
    assert tokens[0] == tokens[1] != tokens[2]


async def test_take_only_what_is_known() -> None:
    """Questions and labels of the time after the run's are not there."""
    at = KNOWN_AT - 5 * testing.DAY
    taken = await snapshot.take(FakeFeatures(), testing.policy(), FEATURE_SET, at, RUN)
    assert taken.table[tables.LABEL_TIME].values.max() <= at
    assert taken.table[tables.QUESTION_TIME].values.max() < at


async def test_take_nothing_known() -> None:
    """Without questions or labels there is nothing to train on, which is not the policy's fault."""
    with pytest.raises(errors.FailedPreconditionError) as caught:
        await snapshot.take(FakeFeatures(), testing.policy(), FEATURE_SET, testing.START, RUN)
    assert caught.value.reason is errors.Reason.NOT_ENOUGH_DATA


def test_spine_of_missing_key() -> None:
    """A champion whose feature set has a key that the snapshot lacks cannot be asked."""
    other = replace(FEATURE_SET, keys={"airport": DataType.STRING})
    with pytest.raises(errors.FailedPreconditionError, match="airport"):
        snapshot.spine_of(testing.snapshot(5), other)
    assert snapshot.spine_of(testing.snapshot(5), FEATURE_SET).names == ("event_time", "question")


def text_column(data: bytes, offsets: list[int]) -> Column:
    return Column(
        "t",
        DataType.STRING,
        np.frombuffer(data, dtype=np.uint8),
        np.array(offsets, dtype=np.int32),
        np.array([True, False, True]),
    )


def test_spine_of_holds_what_is_computed_with() -> None:
    """A spine carries the request fields that the feature set computes with, and names one that is not there."""
    table = testing.snapshot(5)
    field = next(iter(FEATURE_SET.request_fields))
    computing = replace(FEATURE_SET, request_columns=(field,))
    assert snapshot.spine_of(table, computing).names == ("event_time", "question", field)

    with pytest.raises(errors.FailedPreconditionError) as caught:
        snapshot.spine_of(table, replace(FEATURE_SET, request_columns=("nothing",)))
    assert caught.value.reason is errors.Reason.MISSING_FIELD


def test_digest_ignores_what_lies_below_nulls() -> None:
    """Two tables that are equal have one digest, whatever lies in the buffers below nulls."""
    valid = np.array([True, False])
    one = Columns(2, [Column("x", DataType.FLOAT64, np.array([1.0, 7.0]), validity=valid)])
    two = Columns(2, [Column("x", DataType.FLOAT64, np.array([1.0, 8.0]), validity=valid)])
    assert snapshot.digest(one) == snapshot.digest(two)
    hidden = Columns(3, [text_column(b"aHIDDENb", [0, 1, 7, 8])])
    empty = Columns(3, [text_column(b"ab", [0, 1, 1, 2])])
    assert hidden == empty
    assert snapshot.digest(hidden) == snapshot.digest(empty)


@pytest.mark.parametrize(
    "other",
    [
        {"x": (DataType.INT64, [1, 2])},
        {"y": (DataType.INT64, [1, 3])},
        {"x": (DataType.INT32, [1, 3])},
        {"x": (DataType.INT64, [1, None])},
        {"x": (DataType.INT64, [1, 3, 3])},
        {"x": (DataType.STRING, ["1", "3"])},
        {"x": (DataType.INT64, [1, 3]), "y": (DataType.BOOL, [True, True])},
    ],
)
def test_digest_sees_content(other: dict[str, tuple[DataType, list[object]]]) -> None:
    """Another value, name, type, null, row or column is another digest."""
    table = Columns.from_dict({"x": (DataType.INT64, [1, 3])})
    assert snapshot.digest(Columns.from_dict(other)) != snapshot.digest(table)


def test_digest_tells_texts_apart() -> None:
    """Where one text ends and the next begins is part of the content."""
    one = Columns.from_dict({"t": (DataType.STRING, ["ab", "c"])})
    two = Columns.from_dict({"t": (DataType.STRING, ["a", "bc"])})
    assert snapshot.digest(one) != snapshot.digest(two)


def test_digest_survives_file(tmp_path: Path) -> None:
    """What is read back from the file is what was written; a slice counts as what it shows."""
    table = testing.snapshot(50).slice(10, 30)
    tables.write_snapshot(table, tmp_path / "snapshot.arrow")
    assert snapshot.digest(tables.read_snapshot(tmp_path / "snapshot.arrow")) == snapshot.digest(
        table
    )
