from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint.common.v1 import column_pb2
from setpoint_columns import MAX_ROWS, Column, Columns, DataType, proto, testing
from setpoint_runtime import errors


def test_data_types_equal_the_contract() -> None:
    """Each data type has the number of its protocol value, and none is missing."""
    contract = {
        name.removeprefix("DATA_TYPE_"): number for name, number in column_pb2.DataType.items()
    }
    assert contract.pop("UNSPECIFIED") == 0
    assert contract == {dtype.name: dtype.value for dtype in DataType}


@given(testing.batches(max_rows=70))
def test_round_trip_over_the_wire(batch: Columns) -> None:
    """Any columns, slices at odd offsets included, survive serialisation."""
    data = proto.to_proto(batch).SerializeToString()
    assert proto.from_proto(column_pb2.ColumnBatch.FromString(data)) == batch


@given(testing.batches(max_rows=12))
def test_to_proto_is_canonical(batch: Columns) -> None:
    """A slice and a fresh copy of the same rows without nulls have the same bytes."""
    fresh = Columns.from_rows(batch.schema, batch.to_rows())
    full = [column.name for column in batch.columns if column.null_count == 0]
    assert proto.to_proto(batch.select(full)) == proto.to_proto(fresh.select(full))


def test_from_proto_shares_the_message_bytes() -> None:
    """Fixed-width values and text are views, and nobody can write to them."""
    message = proto.to_proto(
        Columns.from_dict({"x": (DataType.INT64, [1, 2]), "s": (DataType.STRING, ["a", "b"])})
    )
    batch = proto.from_proto(message)
    for column in batch.columns:
        assert not column.values.flags.owndata
        assert not column.values.flags.writeable


_INT_BYTES = np.array([1, 2, 3], "<i8").tobytes()


def _offsets(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


_BAD_COLUMNS: list[tuple[dict[str, Any], str, str]] = [
    ({"dtype": 3, "values": _INT_BYTES[:-1]}, "values", "'23 bytes' must have 24 bytes for 3 rows"),
    ({"dtype": 3, "values": _INT_BYTES + b"\0"}, "values", "must have 24 bytes"),
    ({"dtype": 3, "values": b""}, "values", "'0 bytes' must have 24 bytes"),
    ({"dtype": 2, "values": _INT_BYTES}, "values", "must have 12 bytes"),
    (
        {"dtype": 3, "values": _INT_BYTES, "offsets": _offsets(0)},
        "offsets",
        "must be empty for INT64",
    ),
    ({"dtype": 0, "values": _INT_BYTES}, "dtype", "0 must be a known data type"),
    ({"dtype": 8, "values": _INT_BYTES}, "dtype", "8 must be a known data type"),
    ({"dtype": -1, "values": _INT_BYTES}, "dtype", "-1 must be a known data type"),
    (
        {"dtype": 3, "values": _INT_BYTES, "validity": b"\1\1"},
        "validity",
        "must have 1 bytes for 3 rows",
    ),
    ({"dtype": 1, "values": b""}, "values", "must have 1 bytes"),
    ({"dtype": 1, "values": b"\1\1"}, "values", "must have 1 bytes"),
    ({"dtype": 1, "values": b"\1", "offsets": _offsets(0)}, "offsets", "must be empty for BOOL"),
    ({"dtype": 6, "values": b"abc"}, "offsets", "'0 bytes' must have 16 bytes for 3 rows"),
    ({"dtype": 6, "values": b"abc", "offsets": _offsets(0, 1, 2)}, "offsets", "must have 16 bytes"),
    ({"dtype": 6, "values": b"abc", "offsets": _offsets(0, 1, 2, 2)}, r"offsets\[3\]", "must be 3"),
    (
        {"dtype": 6, "values": b"abc", "offsets": _offsets(0, 1, 2, 4)},
        r"offsets\[3\]",
        "must be at most 3",
    ),
    ({"dtype": 6, "values": b"abc", "offsets": _offsets(1, 1, 2, 3)}, r"offsets\[0\]", "must be 0"),
    (
        {"dtype": 6, "values": b"abc", "offsets": _offsets(0, 2, 1, 3)},
        r"offsets\[2\]",
        "1 must be at least 2",
    ),
    (
        {"dtype": 6, "values": b"abc", "offsets": _offsets(0, -1, 2, 3)},
        r"offsets\[1\]",
        "-1 must be at least 0",
    ),
    (
        {"dtype": 6, "values": b"a\xffc", "offsets": _offsets(0, 1, 2, 3)},
        r"values\[1\]",
        "valid UTF-8",
    ),
    (
        {"dtype": 6, "values": b"\xc3\xa9c", "offsets": _offsets(0, 1, 2, 3)},
        r"values\[0\]",
        "valid UTF-8",
    ),
    (
        {"dtype": 6, "values": b"\xed\xa0\x80", "offsets": _offsets(0, 0, 3, 3)},
        r"values\[1\]",
        "valid UTF-8",
    ),
    ({"name": "first", "dtype": 3, "values": _INT_BYTES}, "name", "must be unique"),
    ({"name": "", "dtype": 3, "values": _INT_BYTES}, "name", "must have 1 to 256"),
    ({"name": "n\0", "dtype": 3, "values": _INT_BYTES}, "name", "none NUL"),
    ({"name": "n" * 257, "dtype": 3, "values": _INT_BYTES}, "name", "must have 1 to 256"),
]


@pytest.mark.parametrize("column, part, rule", _BAD_COLUMNS)
def test_from_proto_names_what_is_wrong(column: dict[str, Any], part: str, rule: str) -> None:
    """Each broken column is a typed error with field path, value and rule."""
    good = column_pb2.Column(name="first", dtype=column_pb2.DATA_TYPE_INT64, values=_INT_BYTES)
    bad = column_pb2.Column(**{"name": "bad", **column})
    message = column_pb2.ColumnBatch(rows=3, columns=[good, bad])
    with pytest.raises(errors.InvalidArgumentError, match=rule) as caught:
        proto.from_proto(message, "spine")
    assert caught.value.reason is errors.Reason.MALFORMED_COLUMNS
    assert caught.value.violations[0].field == f"spine.columns[1].{part}".replace("\\", "")


@pytest.mark.parametrize("rows", [-1, MAX_ROWS + 1, 2**62])
def test_from_proto_bounds_rows(rows: int) -> None:
    """A row count alone can neither be negative nor ask for memory without end."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^batch\.rows: "):
        proto.from_proto(column_pb2.ColumnBatch(rows=rows))


def test_from_proto_takes_absent_offsets_of_no_rows() -> None:
    """Arrow lets an empty text column leave its offsets out."""
    message = column_pb2.ColumnBatch()
    message.columns.add(name="s", dtype=column_pb2.DATA_TYPE_STRING)
    assert proto.from_proto(message) == Columns.empty({"s": DataType.STRING})


def test_from_proto_ignores_padding_bits() -> None:
    """Bits past the last row say nothing."""
    message = column_pb2.ColumnBatch(rows=3)
    message.columns.add(name="b", dtype=column_pb2.DATA_TYPE_BOOL, values=b"\xfd", validity=b"\xff")
    column = proto.from_proto(message)["b"]
    assert column.to_list() == [True, False, True]
    assert column.null_mask() is None


_columns = st.builds(
    column_pb2.Column,
    name=st.sampled_from(["a", "b", "c", ""]),
    dtype=st.integers(-1, 9),
    values=st.binary(max_size=40),
    offsets=st.binary(max_size=40)
    | st.lists(st.integers(0, 9), max_size=6).map(lambda x: _offsets(*sorted(x))),
    validity=st.binary(max_size=2),
)


@given(st.integers(-2, 9), st.lists(_columns, max_size=3))
def test_arbitrary_fields_never_crash(rows: int, parts: list[column_pb2.Column]) -> None:
    """Any field contents are either columns that can be read in full or a typed error."""
    _read(column_pb2.ColumnBatch(rows=rows, columns=parts))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash(data: bytes) -> None:
    """Any bytes that protobuf lets through are either readable columns or a typed error."""
    try:
        message = column_pb2.ColumnBatch.FromString(data)
    except Exception:
        return
    _read(message)


@given(testing.batches(min_rows=1, max_rows=9), st.data())
def test_flipped_bytes_never_crash(batch: Columns, data: st.DataObject) -> None:
    """A damaged message is either readable columns or a typed error."""
    raw = bytearray(proto.to_proto(batch).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = column_pb2.ColumnBatch.FromString(bytes(raw))
    except Exception:
        return
    _read(message)


def _read(message: column_pb2.ColumnBatch) -> None:
    try:
        batch = proto.from_proto(message)
    except errors.InvalidArgumentError:
        return
    assert len(batch.to_rows()) == batch.rows
    assert proto.from_proto(proto.to_proto(batch)) == batch


def test_large_text_is_checked_quickly() -> None:
    """A megabyte of text in many rows is one vectorised check, right to the last row."""
    texts = ["é" * 50] * 10_000
    message = proto.to_proto(Columns.from_dict({"s": (DataType.STRING, texts)}))
    assert proto.from_proto(message)["s"] == Column.from_list("s", texts, DataType.STRING)
    broken = bytearray(message.columns[0].values)
    broken[-1] = 0x41
    message.columns[0].values = bytes(broken)
    with pytest.raises(errors.InvalidArgumentError, match=r"values\[9999\]"):
        proto.from_proto(message)
