"""XXH3 of many texts at once, beside the library's."""

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import strategies

from setpoint_router.domain import xxh3

MANY = 450
"""More texts than go one by one."""


def joined(texts: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Returns texts as a column holds them."""
    offsets = np.zeros(len(texts) + 1, np.int32)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def expected(prefix: bytes, texts: list[bytes]) -> list[int]:
    """Returns what the library says."""
    return [xxhash.xxh3_64_intdigest(prefix + text) for text in texts]


@pytest.mark.parametrize("prefix_length", [*range(1, 18), 31, 60, 127, 128, 129, 300])
def test_hashes_of_every_length(prefix_length: int) -> None:
    """Shows that texts of 0 to 300 bytes hash as the library does, behind prefixes of all kinds."""
    random = np.random.default_rng(prefix_length)
    prefix = random.bytes(prefix_length)
    texts = [random.bytes(length) for length in range(301) for _ in range(2)]
    random.shuffle(texts)
    assert xxh3.hashes(prefix, *joined(texts)).tolist() == expected(prefix, texts)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    strategies.text(max_size=12),
    strategies.lists(strategies.text(max_size=150), min_size=1, max_size=30),
)
def test_hashes_of_any_text(salt: str, texts: list[str]) -> None:
    """Shows the same for texts in any script, mixed in any order, few and many at once."""
    prefix, few = f"{salt}\0".encode(), [text.encode() for text in texts]
    assert xxh3.hashes(prefix, *joined(few)).tolist() == expected(prefix, few)
    many = few * (MANY // len(few) + 1)
    assert xxh3.hashes(prefix, *joined(many)).tolist() == expected(prefix, many)


def test_hashes_over_chunks() -> None:
    """Shows that texts beyond the first chunk, and a slice of a longer buffer, are found."""
    texts = [f"user-{number}".encode() for number in range(xxh3.CHUNK + 1_000)]
    data, offsets = joined(texts)
    assert xxh3.hashes(b"s\0", data, offsets).tolist() == expected(b"s\0", texts)
    part = xxh3.hashes(b"s\0", data, offsets[500:-500]).tolist()
    assert part == expected(b"s\0", texts[500:-500])


def test_hashes_of_read_only_and_strided_data() -> None:
    """Shows that a buffer is not written to, and need not be contiguous."""
    data, offsets = joined([b"abc"] * MANY)
    data.setflags(write=False)
    doubled = np.repeat(data, 2)[::2]
    want = expected(b"s\0", [b"abc"] * MANY)
    assert xxh3.hashes(b"s\0", data, offsets).tolist() == want
    assert xxh3.hashes(b"s\0", doubled, offsets).tolist() == want
    assert xxh3.hashes(b"s\0", doubled[:9], offsets[:4]).tolist() == want[:3]


def test_hashes_refuses_no_prefix() -> None:
    """Shows that hashing nothing behind nothing, which has a rule of its own, is not done wrongly."""
    with pytest.raises(ValueError, match="prefix"):
        xxh3.hashes(b"", *joined([b""]))
