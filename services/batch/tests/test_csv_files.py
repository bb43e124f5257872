import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_batch.partition import csv_files
from setpoint_runtime import errors

FIELDS = st.text(st.sampled_from('ab",\n\r é'), max_size=6)
TABLES = st.lists(st.tuples(FIELDS, FIELDS), max_size=12)


def scanned(data: bytes, rows: int = 1_000, block: int = 7) -> csv_files.Scanned:
    """Look through bytes in small blocks."""
    blocks = [data[at : at + block] for at in range(0, len(data), block)]
    return csv_files.scan("file:///in.csv", blocks, rows)


def read(path: Path, found: csv_files.Scanned, needed: list[str]) -> list[tuple[str | None, ...]]:
    """Read every piece by itself."""
    made: list[tuple[str | None, ...]] = []
    for piece in found.pieces:
        before = len(made)
        for batch in csv_files.chunks(f"file://{path}", found.names, piece, needed):
            made += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        assert len(made) - before == piece.rows
    return made


@given(
    table=TABLES,
    ending=st.sampled_from(["\n", "\r\n"]),
    rows=st.integers(1, 5),
    block=st.integers(1, 30),
    is_cut=st.booleans(),
)
def test_pieces_are_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[str, str]],
    ending: str,
    rows: int,
    block: int,
    *,
    is_cut: bool,
) -> None:
    """However a file is cut into blocks and pieces, together they hold the rows that were written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerow(["first", "sec,ond"])
    writer.writerows(table)
    data = text.getvalue().encode()
    if is_cut:
        data = data.removesuffix(ending.encode())
    path = tmp_path_factory.getbasetemp() / "in.csv"
    path.write_bytes(data)
    found = scanned(data, rows, block)
    assert found.names == ("first", "sec,ond")
    assert found.rows == len(table)
    assert all(piece.rows <= rows for piece in found.pieces)
    assert read(path, found, ["sec,ond", "first"]) == [(each[1], each[0]) for each in table]


def test_blank_lines_and_mark(tmp_path: Path) -> None:
    """A byte order mark is no part of a name, blank lines are no rows, an empty field is null."""
    data = b'\xef\xbb\xbfa,b\r\n1,\r\n\r\n\r\n"",x\r\n'
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    for block in (1, 2, 5, 100):
        found = scanned(data, rows=1, block=block)
        assert found.names == ("a", "b")
        assert [piece.first_row for piece in found.pieces] == [0, 1]
        assert read(path, found, ["a", "b"]) == [("1", None), ("", "x")]


def test_header_alone() -> None:
    """A file without rows has no pieces, with and without a break at its end."""
    for data in (b"a,b\n", b"a,b"):
        found = scanned(data)
        assert (found.names, found.rows, found.pieces) == (("a", "b"), 0, ())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "header"),
        (b"\n1\n", "header"),
        (b"a,a\n1,2\n", "column 'a': is there twice"),
        (b'a,b\n1,"2\n3,4\n', "never closed"),
        (b"\xff\xfe\n1\n", "UTF-8"),
        (b"a,b\r1,2\r3,4\r", "header"),
        (b'a,"' + b"b" * 200_000 + b'"\n1,2\n', "header"),
        (b"a,b\0\n1,2\n", "NUL"),
    ],
)
def test_refused(data: bytes, told: str) -> None:
    """What is no CSV with a header is refused by the file's name."""
    with pytest.raises(errors.InvalidArgumentError, match=told) as caught:
        scanned(data)
    assert caught.value.reason is errors.Reason.INVALID_INPUT
    assert "file:///in.csv" in caught.value.message


def test_wrong_number_of_fields(tmp_path: Path) -> None:
    """A record with too few fields is refused with its row, counted in the whole file."""
    data = b"a,b\n1,2\n3,4\n5,6\n7\n"
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    found = scanned(data, rows=2)
    with pytest.raises(errors.InvalidArgumentError, match="row 3: has 1 fields, not 2") as caught:
        read(path, found, ["a", "b"])
    assert caught.value.metadata["row"] == "3"
