"""What an encoder writes is what the reader reads, whatever came before on the connection."""

from urllib.parse import unquote

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setpoint_rpc.http2 import frames, headers
from setpoint_rpc.http2.testing import fields

NAMES = st.sampled_from([b"a", b"user-agent", b"grpc-timeout", b"x-long" * 30, b"content-type"])
VALUES = st.one_of(
    st.sampled_from([b"", b"application/grpc", b"v" * 200]),
    st.binary(max_size=40),
)
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=6), max_size=12)
# What the encoder's table is set to before a block, None for as it was.
TABLES = st.lists(st.sampled_from([None, None, 0, 64, 4096]), min_size=12, max_size=12)


def reader() -> "headers.Reader[headers.Pairs]":
    """Make a reader that returns the fields as they are."""
    return headers.Reader(list)


@settings(max_examples=40, deadline=None)
@given(blocks=BLOCKS, tables=TABLES, huffman=st.lists(st.booleans(), min_size=12, max_size=12))
def test_read_what_was_encoded(
    blocks: list[list[tuple[bytes, bytes, bool]]], tables: list[int | None], huffman: list[bool]
) -> None:
    """Every way to write fields is read: packed or not, from the table, new in it, never in it."""
    encoder, read = hpack.Encoder(), reader()
    for pairs, table, packed in zip(blocks, tables, huffman, strict=False):
        if table is not None:
            encoder.header_table_size = table
        # The second time most of it is in the table, the third time the block is known.
        for _ in range(3):
            block = encoder.encode(
                [hpack.NeverIndexedHeaderTuple(n, v) if s else (n, v) for n, v, s in pairs],
                huffman=packed,
            )
            assert read.read(block) == [(name, value) for name, value, _ in pairs]


def test_read_known_block_anew_after_the_table_changed() -> None:
    """The same bytes mean something else once the table behind them is another one."""
    encoder, read = hpack.Encoder(), reader()
    read.read(encoder.encode([(b"a", b"first")]))
    newest = bytes((0x80 | 62,))
    assert read.read(newest) == read.read(newest) == [(b"a", b"first")]

    read.fields(encoder.encode([(b"b", b"second")]))

    assert read.read(newest) == [(b"b", b"second")]
    assert read.read(bytes((0x80 | 63,))) == [(b"a", b"first")]


def test_read_known_block_anew_after_the_table_was_emptied() -> None:
    """A place in the table is none any more when the table has been emptied."""
    encoder, read = hpack.Encoder(), reader()
    read.read(encoder.encode([(b"a", b"first")]))
    newest = bytes((0x80 | 62,))
    read.read(newest)

    read.fields(b"\x20")

    with pytest.raises(frames.ConnectionFailure):
        read.read(newest)


def test_keep_what_is_known_while_the_table_stays() -> None:
    """A block that is decoded in whole and changes nothing leaves known ones known."""
    read = headers.Reader(headers.head_of)
    known = headers.block(fields())
    first = read.read(known)

    read.read(hpack.Encoder().encode(_never_indexed(fields((b"a", b"packed")))))

    assert read.read(known) is first


def _never_indexed(pairs: headers.Pairs) -> list[hpack.HeaderTuple]:
    return [hpack.NeverIndexedHeaderTuple(name, value) for name, value in pairs]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_end_connection_or_read_arbitrary_bytes(block: bytes) -> None:
    """Whatever a block holds, the reader knows it for what it is, and equals a plain decoder."""
    try:
        expected = hpack.Decoder().decode(block, raw=True)
    except (hpack.HPACKError, ValueError):
        expected = None
    try:
        found: headers.Pairs | None = reader().read(block)
    except frames.ConnectionFailure:
        found = None

    assert found == (None if expected is None else [(name, value) for name, value in expected])


@pytest.mark.parametrize(
    "block",
    [
        b"\x82" * (headers.MAXIMUM_BLOCK_BYTES // 42 + 1),
        b"\x20" * (headers.MAXIMUM_BLOCK_BYTES + 1),
        headers.block([(b"a", bytes(headers.MAXIMUM_BLOCK_BYTES))]),
        hpack.Encoder().encode([(b"a", b"v" * 4000)]) + b"\xbe" * 20,
    ],
    ids=["small fields", "nothing but sizes", "one value", "places of a long value"],
)
def test_refuse_block_that_is_too_long(block: bytes) -> None:
    """Blocks are bounded by what they mean, not only by what they take (CVE-2016-6581)."""
    with pytest.raises(frames.ConnectionFailure) as caught:
        reader().read(block)

    assert caught.value.code == frames.ErrorCode.ENHANCE_YOUR_CALM


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True).filter(
                    lambda name: (
                        not name.endswith("-bin")
                        and not name.startswith("grpc-")
                        and name not in ("te", "connection", "upgrade", "keep-alive")
                    )
                ),
                st.text(st.characters(min_codepoint=32, max_codepoint=126)),
            ),
            st.tuples(
                st.from_regex(r"[a-z][a-z0-9_.-]{0,10}-bin", fullmatch=True), st.binary(max_size=99)
            ),
        )
    )
)
def test_carry_metadata_both_ways(metadata: list[tuple[str, str | bytes]]) -> None:
    """What is encoded for an answer would be read from a request as it was."""
    pairs = headers.encoded(headers.checked(metadata))

    head = headers.head_of(fields(*pairs))

    assert list(head.invocation_metadata) == metadata
    assert head.problem == ""


def test_read_joined_binary_values_one_by_one() -> None:
    """Values of one name may come in one field, and are several all the same."""
    head = headers.head_of(fields((b"a-bin", b"AA==, AQ,Ag==")))

    assert head.invocation_metadata == (("a-bin", b"\0"), ("a-bin", b"\1"), ("a-bin", b"\2"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("Upper", "x"), ("with space", "x"), ("", "x"), (":path", "x"), ("a", "naïve"), ("a", "b\n")],
)
def test_refuse_metadata_that_cannot_be_sent(name: str, value: str) -> None:
    """A handler learns at once that nobody would get its metadata."""
    with pytest.raises(ValueError, match=r"metadata|ascii"):
        headers.checked([(name, value)])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999H", 99_999_999 * 3600.0),
        (b"0S", 0.0),
    ],
)
def test_read_timeout_in_every_unit(text: bytes, seconds: float) -> None:
    """The time of a call comes in six units."""
    head = headers.head_of(fields((b"grpc-timeout", text)))

    assert head.timeout_seconds == pytest.approx(seconds)
    assert head.problem == ""


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1s", b"1S "])
def test_name_the_problem_of_a_broken_timeout(text: bytes) -> None:
    """A time that is none refuses the call, since its caller may wait for nothing."""
    head = headers.head_of(fields((b"grpc-timeout", text)))

    assert "grpc-timeout" in head.problem


@settings(deadline=None)
@given(st.text())
def test_carry_status_texts(text: str) -> None:
    """A status text comes through a field of printable ASCII."""
    written = headers.percent_encoded(text)

    assert all(0x20 <= each < 0x7F for each in written)
    assert unquote(written.decode("ascii")) == text.encode("utf-8", "replace").decode()
