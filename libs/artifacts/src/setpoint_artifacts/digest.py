"""Digests: the names under which artifacts are stored, and the proof that bytes are theirs."""

import hashlib
import mmap
import re

from setpoint_artifacts import refusal
from setpoint_runtime import errors

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Say whether `text` is a sha256 in lower-case hexadecimal, and so safe as a file name."""
    return _SHA256.fullmatch(text) is not None


def of(data: bytes | mmap.mmap) -> str:
    """Return the sha256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def verify(data: bytes | mmap.mmap, digest: str, size: int) -> None:
    """Make sure that bytes are the ones a digest and a size announce.

    Raises:
        RefusedError: DIGEST_MISMATCH, if they are not.
    """
    if len(data) != size:
        raise refusal.RefusedError(
            errors.Reason.DIGEST_MISMATCH, f"the artifact has {len(data)} bytes, not {size}"
        )
    found = of(data)
    if found != digest:
        raise refusal.RefusedError(
            errors.Reason.DIGEST_MISMATCH, f"the artifact has the digest {found}, not {digest}"
        )
