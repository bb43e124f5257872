"""Formats recognised by their bytes, so that a refusal can name what it refuses.

Whatever the name of a file says, a pickle file begins as pickle files do. Recognising is the second
line: what is not recognised here still has to be readable as ONNX. No byte is unpickled, no archive
unpacked; compressed data is opened for its first few kilobytes only, to see what hides in it.
"""

import bz2
import lzma
import mmap
import pickletools
import re
import zlib
from collections.abc import Callable
from typing import Final

from setpoint_artifacts import refusal
from setpoint_runtime import errors

HEAD_BYTES: Final = 64 * 1024
"""As much of the beginning is looked at, which is why an upload can be refused early."""
_TAIL_BYTES: Final = 64 * 1024
_PEEK_BYTES: Final = 4096
_OLD_PICKLE_OPCODES: Final = 2000

_PICKLE_PROTO = 0x80
_LAST_PICKLE_PROTOCOL = 0x0F
"""Protocols up to 5 exist; a few more are refused before they are invented."""
_GLOBAL = re.compile(rb"^\(*[ci][A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
_TORCH_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

_MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 (Keras weights or model)"),
    (0, b"\x93NUMPY", "npy (numpy array, which may hold pickled objects)"),
    (0, b"\x28\xb5\x2f\xfd", "zstd archive"),
    (0, b"\x04\x22\x4d\x18", "lz4 archive (joblib)"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!", "rar archive"),
    (0, b"ZF", "joblib compressed pickle"),
    (0, b"\x7fELF", "ELF program"),
    (0, b"MZ", "Windows program"),
    (0, b"\xcf\xfa\xed\xfe", "Mach-O program"),
    (0, b"\xca\xfe\xba\xbe", "Mach-O program or Java class"),
    (0, b"#!", "script"),
    (0, b"\xac\xed\x00\x05", "serialised Java objects"),
    (0, b"RDX", "R data (serialised R objects)"),
    (0, b"GGUF", "GGUF"),
    (4, b"TFL3", "TensorFlow Lite"),
    (4, b"ORTM", "ORT flatbuffer"),
    (257, b"ustar", "tar archive"),
)
"""Offset, bytes, name. None of them can begin an ONNX file that a tool writes. An ORT flatbuffer is
listed because onnxruntime would load it without any of the checks that ONNX gets."""

_HDF5_OFFSETS: Final = (512, 1024, 2048, 4096)

_IN_ZIP: Final = (
    (b"model.weights.h5", "Keras archive (zip)"),
    (b".pkl", "PyTorch archive (zip with a pickle)"),
    (b"schema.json", "skops archive (zip)"),
    (b".npy", "npz archive (zip of numpy arrays, which may hold pickled objects)"),
)


def detect(data: bytes | mmap.mmap) -> str | None:
    """Return the name of a format that is not served, or None when the bytes are of no such one.

    Args:
        data: The artifact, or its beginning.
    """
    head = data[:HEAD_BYTES]
    return (
        _pickle(head) or _archive(head, data) or _by_magic(head) or _compressed(head) or _text(head)
    )


def refuse_unserved(data: bytes | mmap.mmap) -> None:
    """Refuse by name what is not a served format.

    Raises:
        RefusedError: EXECUTABLE_ARTIFACT, with the name of the format.
    """
    name = detect(data)
    if name is not None:
        raise refusal.RefusedError(
            errors.Reason.EXECUTABLE_ARTIFACT,
            f"the artifact is a file of the format {name}; only ONNX is served,"
            " because other formats can execute code when they are opened",
        )


def _pickle(head: bytes) -> str | None:
    if len(head) >= 2 and head[0] == _PICKLE_PROTO and head[1] <= _LAST_PICKLE_PROTOCOL:
        if head[2:].startswith(_TORCH_LEGACY):
            return "PyTorch file (pickle)"
        return "joblib (pickle)" if b"joblib" in head else "pickle"
    if _GLOBAL.match(head) or _is_old_pickle(head):
        return "pickle"
    return None


def _is_old_pickle(head: bytes) -> bool:
    """Tell whether bytes are operations of protocol 0 or 1 up to the one that ends a pickle.

    These protocols have no header. `genops` only splits the bytes, it executes nothing.
    """
    try:
        for count, (opcode, _, _) in enumerate(pickletools.genops(head)):
            if opcode.name == "STOP":
                return count > 0
            if count >= _OLD_PICKLE_OPCODES:
                return True
    except Exception:  # noqa: BLE001, RUF100 — whatever genops raises, it was no pickle.
        return False
    return False


def _archive(head: bytes, data: bytes | mmap.mmap) -> str | None:
    if head[:4] not in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return None
    names = head + data[-_TAIL_BYTES:]
    return next((name for part, name in _IN_ZIP if part in names), "zip archive")


def _by_magic(head: bytes) -> str | None:
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    if any(head.startswith(b"\x89HDF\r\n\x1a\n", offset) for offset in _HDF5_OFFSETS):
        return "HDF5 (Keras weights or model)"
    if head[8:9] == b"{" and head[5:8] == b"\0\0\0":
        return "safetensors"
    return None


def _compressed(head: bytes) -> str | None:
    for magic, name, open_some in _COMPRESSIONS:
        if not head.startswith(magic):
            continue
        try:
            inner = detect_uncompressed(open_some(head))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
            inner = None
        return f"{inner} compressed with {name}" if inner else f"{name} archive"
    return None


def detect_uncompressed(data: bytes) -> str | None:
    """Return the name of a format that is not served, without looking into compressed data."""
    return _pickle(data) or _by_magic(data) or _archive(data, data)


def _some_gzip(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data, _PEEK_BYTES)


def _some_zlib(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _PEEK_BYTES)


def _some_bz2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, _PEEK_BYTES)


def _some_lzma(data: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=64 << 20).decompress(data, _PEEK_BYTES)


_COMPRESSIONS: Final[tuple[tuple[bytes, str, Callable[[bytes], bytes]], ...]] = (
    (b"\x1f\x8b", "gzip", _some_gzip),
    (b"\x78\x01", "zlib", _some_zlib),
    (b"\x78\x5e", "zlib", _some_zlib),
    (b"\x78\x9c", "zlib", _some_zlib),
    (b"\x78\xda", "zlib", _some_zlib),
    (b"BZh", "bzip2", _some_bz2),
    (b"\xfd7zXZ\x00", "xz", _some_lzma),
    (b"\x5d\x00\x00", "lzma", _some_lzma),
)


def _text(head: bytes) -> str | None:
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<?xml", b"<pmml", b"<html", b"<!doctype")):
        return "XML or HTML"
    if start.startswith((b"{", b"[")) and head.isascii():
        return "JSON"
    return None
