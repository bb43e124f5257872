import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import column_pb2
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_inference.convert import batches
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_inference.testing import floats
from setpoint_runtime import errors
from setpoint_scoring import packing
from setpoint_scoring.packing import Output

F32, F64 = DataType.FLOAT32, DataType.FLOAT64


def manifest(dtype: DataType, *columns: str) -> Manifest:
    return Manifest(VersionKey("m", 1), "", 0, (TensorSpec("X", dtype, columns),), ())


def message(columns: Columns) -> column_pb2.ColumnBatch:
    return column_messages.to_proto(columns)


SOURCES = {
    F64: lambda random, rows: random.normal(size=rows),
    F32: lambda random, rows: random.normal(size=rows).astype(np.float32),
    DataType.INT64: lambda random, rows: random.integers(-(1 << 24), 1 << 24, rows),
    DataType.INT32: lambda random, rows: random.integers(-9, 9, rows).astype(np.int32),
}


def column(random: np.random.Generator, name: str, source: DataType, rows: int) -> Column:
    """Return a random column, sometimes with nulls."""
    mask = random.random(rows) < 0.3 if random.random() < 0.3 else None
    return Column.from_numpy(name, SOURCES[source](random, rows), mask=mask, dtype=source)


@pytest.mark.parametrize("target", [F32, F64])
@given(
    st.integers(1, 20),
    st.lists(st.sampled_from(list(SOURCES)), min_size=1, max_size=6),
    st.lists(st.lists(st.text(max_size=5), min_size=20, max_size=20), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_pack_quick_equals_slow(
    target: DataType, rows: int, sources: list[DataType], texts: list[list[str]], seed: int
) -> None:
    """The quick way gives what the slow way gives, bit for bit."""
    random = np.random.default_rng(seed)
    names = tuple(f"c{index}" for index in range(len(sources)))
    columns = [
        column(random, name, source, rows) for name, source in zip(names, sources, strict=True)
    ]
    text_names = tuple(f"t{index}" for index in range(len(texts)))
    for name, values in zip(text_names, texts, strict=True):
        columns.append(Column.from_list(name, values[:rows], DataType.STRING))
    specs: tuple[TensorSpec, ...] = (TensorSpec("X", target, tuple(reversed(names))),)
    if texts:
        specs = (*specs, TensorSpec("T", DataType.STRING, text_names))
    batch = Columns(rows, [*columns, Column.from_list("other", [True] * rows, DataType.BOOL)])
    quick = batches._quickly(message(batch), specs)
    assert quick is not None
    slow = packing.pack(batch, specs)
    assert quick["X"].dtype == slow["X"].dtype
    assert quick["X"].flags.c_contiguous
    np.testing.assert_array_equal(quick["X"], slow["X"])
    if texts:
        assert quick["T"].tolist() == slow["T"].tolist()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offsets", b"\0\0\0\0\1\0\0\0\3\0\0\0"),
        ("offsets", b"\1\0\0\0\1\0\0\0\4\0\0\0"),
        ("offsets", b"\0\0\0\0\5\0\0\0\4\0\0\0"),
        ("offsets", b"\0\0\0\0\4\0\0\0"),
        ("values", b"ab\xff\xff"),
        ("values", b"abcde"),
        ("validity", b"\1"),
        ("dtype", int(DataType.BOOL)),
    ],
)
def test_pack_malformed_text_goes_slow(field: str, value: object) -> None:
    """Text that is not exactly as the contract says is left to the way that refuses it."""
    specs = (TensorSpec("T", DataType.STRING, ("t",)),)
    batch = message(Columns.from_dict({"t": (DataType.STRING, ["ab", "cd"])}))
    assert batches._quickly(batch, specs) is not None
    setattr(batch.columns[0], field, value)
    assert batches._quickly(batch, specs) is None


@pytest.mark.parametrize("value", [(1 << 24) + 1, -(1 << 63)])
def test_pack_large_integer_goes_slow(value: int) -> None:
    """An integer beyond float32's exact range is looked at one by one."""
    batch = message(Columns.from_dict({"a": (DataType.INT64, [value]), "b": (F64, [0.5])}))
    assert batches._quickly(batch, manifest(F32, "a", "b").inputs) is None


def test_pack_unusual_goes_slow() -> None:
    """Nulls, other types, gaps and damage are left to the way that can say what is wrong."""
    wanted = manifest(F32, "a", "b")
    good = message(floats({"a": [1.0], "b": [2.0]}))
    assert batches._quickly(good, wanted.inputs) is not None

    def changed(**fields: object) -> column_pb2.ColumnBatch:
        copy = column_pb2.ColumnBatch()
        copy.CopyFrom(good)
        for name, value in fields.items():
            setattr(copy.columns[1], name, value)
        return copy

    for batch in (
        changed(validity=b"\x01\x01"),
        changed(dtype=int(DataType.BOOL)),
        changed(dtype=int(DataType.TIMESTAMP)),
        changed(dtype=int(F32)),
        changed(name="c"),
        changed(name="a"),
        changed(values=b"1234567"),
        changed(offsets=b"1234"),
        message(floats({"a": [1e39], "b": [2.0]})),
        message(floats({"a": [], "b": []})),
    ):
        assert batches._quickly(batch, wanted.inputs) is None


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("values", b"1", errors.Reason.MALFORMED_COLUMNS),
        ("name", "a", errors.Reason.MALFORMED_COLUMNS),
        ("name", "z", errors.Reason.MISSING_FIELD),
        ("dtype", 77, errors.Reason.MALFORMED_COLUMNS),
    ],
)
def test_pack_says_what_is_wrong(field: str, value: object, reason: errors.Reason) -> None:
    """What the quick way leaves is refused with its reason."""
    batch = message(floats({"a": [1.0], "b": [2.0]}))
    setattr(batch.columns[1], field, value)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        batches.pack(batch, manifest(F32, "a", "b"))
    assert caught.value.reason == reason


def test_pack_negative_rows() -> None:
    """A negative number of rows is refused."""
    batch = column_pb2.ColumnBatch(rows=-1)
    with pytest.raises(errors.InvalidArgumentError, match="rows"):
        batches.pack(batch, manifest(F32, "a"))


def test_fill_every_type() -> None:
    """Answers of every type come back as they were, also from columns of a matrix."""
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    outputs = [
        Output("f", F32, matrix[:, 1]),
        Output("d", F64, np.array([0.5, np.nan, np.inf])),
        Output("i", DataType.INT64, np.array([1, -2, 3])),
        Output("j", DataType.INT32, np.array([1, -2, 3], np.int32)),
        Output("t", DataType.TIMESTAMP, np.array([1, 2, 3])),
        Output("b", DataType.BOOL, np.array([True, False, True])),
        Output("s", DataType.STRING, np.array(["AA", "", "ü"], object)),
    ]
    batch = column_pb2.ColumnBatch()
    batches.fill(batch, 3, outputs)
    got = column_messages.from_proto(batch)
    assert got.schema == {output.name: output.dtype for output in outputs}
    assert got["f"].to_list() == [1.0, 3.0, 5.0]
    assert got["b"].to_list() == [True, False, True]
    assert got["s"].to_list() == ["AA", "", "ü"]
    assert got["j"].to_list() == [1, -2, 3]


def test_fill_nothing() -> None:
    """No rows are an answer too."""
    specs = [TensorSpec("p", F32, ("p",)), TensorSpec("s", DataType.STRING, ("s",))]
    batch = column_pb2.ColumnBatch()
    batches.fill(batch, 0, packing.none(specs))
    got = column_messages.from_proto(batch)
    assert (got.rows, got.schema) == (0, {"p": F32, "s": DataType.STRING})
