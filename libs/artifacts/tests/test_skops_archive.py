"""The outside of skops files, however it was damaged."""

import contextlib
import io
import json
import zipfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from setpoint_artifacts import refusal, skops_archive
from setpoint_runtime import errors

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ENCRYPTED = 1


def archive(method: int = zipfile.ZIP_STORED) -> bytes:
    """A file that looks like one of skops."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr("schema.json", json.dumps({"__class__": "Tree", "content": ["a" * 50] * 20}))
        made.writestr("1.npy", bytes(300))
    return file.getvalue()


def damaged(data: bytes, places: dict[int, int]) -> bytes:
    """The same bytes, but for some."""
    changed = bytearray(data)
    for place, value in places.items():
        changed[place % len(changed)] = value
    return bytes(changed)


@pytest.mark.parametrize("method", METHODS)
def test_inspect_archive(method: int) -> None:
    """Every way to compress that skops can write is read."""
    assert skops_archive.inspect(archive(method)).inputs == ()


def test_inspect_encrypted() -> None:
    """An archive whose description nobody can read is refused by name."""
    data = archive()
    flags = {data.index(b"PK\x03\x04") + 6: ENCRYPTED, data.index(b"PK\x01\x02") + 8: ENCRYPTED}
    with pytest.raises(refusal.RefusedError) as caught:
        skops_archive.inspect(damaged(data, flags))
    assert caught.value.reason is errors.Reason.INVALID_ARTIFACT


@given(
    st.sampled_from(METHODS),
    st.dictionaries(st.integers(0, 10_000), st.integers(0, 255), min_size=1, max_size=3),
)
@example(zipfile.ZIP_LZMA, {60: 255, 61: 255, 62: 255})
def test_inspect_damaged(method: int, places: dict[int, int]) -> None:
    """However bytes were changed, an archive is read or refused, and nothing else happens."""
    with contextlib.suppress(refusal.RefusedError):
        skops_archive.inspect(damaged(archive(method), places))
