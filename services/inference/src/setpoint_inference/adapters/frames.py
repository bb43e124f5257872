"""Messages between inference and a worker process: a JSON header and arrays, never Python objects.

What a worker says is not trusted: lengths are bounded before anything is read, and arrays are read as
the types and shapes that were expected, whatever the worker claims.
"""

import json
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]

LENGTHS: Final = struct.Struct("<IQ")
"""Bytes of the header, and of the arrays together."""
MAX_HEADER_BYTES: Final = 1 << 20
MAX_BODY_BYTES: Final = 1 << 30
TEXT: Final = "text"
"""Kind of arrays of text; the others are numpy's names of types."""


class MalformedError(Exception):
    """A message is not what was agreed."""


class Expected(NamedTuple):
    """An array that a message must hold."""

    kind: str
    shape: tuple[int, ...]


def encode(header: dict[str, Any], arrays: Sequence[AnyArray] = (), body: bytes = b"") -> bytes:
    """Return a message: a header, and arrays or other bytes."""
    parts = [_packed(array) for array in arrays] or [body]
    sizes = [len(part) for part in parts]
    text = json.dumps({**header, "sizes": sizes}).encode()
    return b"".join([LENGTHS.pack(len(text), sum(sizes)), text, *parts])


def lengths(head: bytes) -> tuple[int, int]:
    """Return the bytes of header and body that follow.

    Raises:
        MalformedError: They are too many.
    """
    header, body = LENGTHS.unpack(head)
    if header > MAX_HEADER_BYTES or body > MAX_BODY_BYTES:
        raise MalformedError(f"{header} and {body} bytes are announced")
    return header, body


def header_of(text: bytes) -> dict[str, Any]:
    """Return a header.

    Raises:
        MalformedError: It is none.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError("the header is no JSON") from None
    if not isinstance(header, dict):
        raise MalformedError("the header is no object")
    return header


def arrays_of(header: dict[str, Any], body: bytes, expected: Sequence[Expected]) -> list[AnyArray]:
    """Return the arrays of a message.

    Raises:
        MalformedError: They are not the expected ones.
    """
    sizes = header.get("sizes")
    if not isinstance(sizes, list) or len(sizes) != len(expected):
        raise MalformedError("there are other arrays")
    made, start = [], 0
    for size, wanted in zip(sizes, expected, strict=True):
        if not isinstance(size, int) or not 0 <= size <= len(body) - start:
            raise MalformedError("an array lies outside the message")
        made.append(_unpacked(body[start : start + size], wanted))
        start += size
    return made


def _packed(array: AnyArray) -> bytes:
    if array.dtype.kind in "OU":
        return json.dumps(array.reshape(-1).tolist()).encode()
    return np.ascontiguousarray(array).tobytes()


def _unpacked(data: bytes, expected: Expected) -> AnyArray:
    count = int(np.prod(expected.shape))
    if expected.kind == TEXT:
        try:
            texts = json.loads(data)
        except (ValueError, RecursionError):
            raise MalformedError("a text array is no JSON") from None
        is_text = isinstance(texts, list) and all(isinstance(each, str) for each in texts)
        if not is_text or len(texts) != count:
            raise MalformedError(f"a text array does not hold {count} texts")
        made = np.empty(count, object)
        made[:] = texts
        return made.reshape(expected.shape)
    kind = np.dtype(expected.kind)
    if len(data) != count * kind.itemsize:
        raise MalformedError(f"an array does not hold {count} values of {kind}")
    return np.frombuffer(data, kind).reshape(expected.shape)
