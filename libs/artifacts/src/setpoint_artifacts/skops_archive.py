"""The outside of a skops file: what can be said of it without loading anything.

A skops file is a zip archive of one `schema.json` and of arrays. Which types it names is judged by
whoever loads it, in a process of its own and against the platform's list of trusted types.
"""

import io
import json
import lzma
import mmap
import zipfile
import zlib
from typing import Final

from setpoint_artifacts import refusal
from setpoint_artifacts.signature import Signature
from setpoint_runtime import errors

SCHEMA: Final = "schema.json"
_MAX_MEMBERS: Final = 10_000
_MAX_GROWTH: Final = 100
"""Arrays of numbers do not become smaller by more; a bomb does."""
_MAX_SCHEMA_BYTES: Final = 64 * 1024 * 1024

# Beside its own error zipfile raises whatever its decompressors do; RuntimeError is for encrypted
# members and for ways to compress that it does not know.
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    MemoryError,
    OSError,
    ValueError,
    EOFError,
)


def inspect(data: bytes | mmap.mmap) -> Signature:
    """Check an archive; what the estimator takes and gives only a run can say.

    Raises:
        RefusedError: INVALID_ARTIFACT.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check(archive, len(data))
    except _UNREADABLE:
        raise _invalid("cannot be read as a skops archive") from None
    return Signature((), ())


def _check(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    names = {member.filename for member in members}
    if SCHEMA not in names:
        raise _invalid(f"is no skops archive: there is no {SCHEMA} in it")
    if len(members) > _MAX_MEMBERS or len(names) != len(members):
        raise _invalid("has too many members, or one twice")
    if any("/" in name or "\\" in name for name in names):
        raise _invalid("has folders in it, which no skops archive has")
    if sum(member.file_size for member in members) > max(size, 4096) * _MAX_GROWTH:
        raise _invalid("would grow too much when it is unpacked")
    if archive.getinfo(SCHEMA).file_size > _MAX_SCHEMA_BYTES:
        raise _invalid("has a description that is too large")
    try:
        schema = json.loads(archive.read(SCHEMA))
    except RecursionError:
        raise _invalid("has a description that is nested too deeply") from None
    if not isinstance(schema, dict) or "__class__" not in schema:
        raise _invalid("has a description that is none of skops")


def _invalid(what: str) -> refusal.RefusedError:
    return refusal.RefusedError(errors.Reason.INVALID_ARTIFACT, f"the artifact {what}")
