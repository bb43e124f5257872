import hashlib

import pytest

from setpoint_artifacts import digest, refusal
from setpoint_runtime import errors

DATA = b"some bytes"
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_verify_matching() -> None:
    """Bytes of the announced digest and size pass."""
    digest.verify(DATA, DIGEST, len(DATA))


@pytest.mark.parametrize(
    ("data", "size"), [(DATA[:-1], len(DATA)), (DATA[:-1] + b"!", len(DATA)), (DATA, 3), (b"", 0)]
)
def test_verify_other_bytes(data: bytes, size: int) -> None:
    """A missing, changed or added byte is refused."""
    with pytest.raises(refusal.RefusedError) as caught:
        digest.verify(data, DIGEST, size)
    assert caught.value.reason == errors.Reason.DIGEST_MISMATCH


@pytest.mark.parametrize(
    "text", ["", "../" + DIGEST[3:], DIGEST[:-1], DIGEST.upper(), DIGEST + "0", DIGEST[:-1] + "\n"]
)
def test_is_digest_refuses(text: str) -> None:
    """Nothing but 64 lower-case hexadecimal digits can become a file name."""
    assert not digest.is_digest(text)
    assert digest.is_digest(DIGEST)
