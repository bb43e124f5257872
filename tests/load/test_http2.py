import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.load.support import http2

FRAMES = st.lists(
    st.builds(
        http2.Frame,
        st.integers(0, 9),
        st.integers(0, 255),
        st.integers(0, 2**31 - 1),
        st.binary(max_size=300),
    ),
    max_size=8,
)


@given(FRAMES, st.integers(0, 20))
def test_split_reads_what_frame_writes(wanted: list[http2.Frame], cut: int) -> None:
    """Whole frames come back as they were; one that is cut off waits for its rest."""
    data = b"".join(http2.frame(*each) for each in wanted)
    following = http2.frame(http2.DATA, 0, 1, bytes(20))[: 9 + cut - 1]
    found, rest = http2.split(data + following)
    assert found == wanted
    assert rest == following


@pytest.mark.parametrize(
    "value, bits, expected",
    [(10, 5, b"\x0a"), (1337, 5, b"\x1f\x9a\x0a"), (42, 8, b"\x2a"), (127, 7, b"\x7f\x00")],
)
def test_integer_follows_the_examples(value: int, bits: int, expected: bytes) -> None:
    """The published examples of header compression hold, and a number that fills its prefix."""
    assert http2.integer(value, bits, 0) == expected


def test_headers_become_places() -> None:
    """The first request teaches its fields, later ones name them, the newest by the lowest place."""
    assert http2.first_headers([("a", "b"), ("te", "x")]) == b"\x40\x01a\x01b\x40\x02te\x01x"
    assert http2.further_headers(2) == bytes((0x80 | 63, 0x80 | 62))


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_messages_are_taken_apart(contents: list[bytes]) -> None:
    """Messages that follow each other come back in order."""
    data = b"".join(map(http2.message, contents))
    assert [http2.unframed(each) for each in http2.messages(data)] == contents


def test_messages_refuse_half_a_message() -> None:
    """A file that was cut off is told, not sent."""
    with pytest.raises(ValueError, match="cut off"):
        http2.messages(http2.message(b"abc")[:-1])
