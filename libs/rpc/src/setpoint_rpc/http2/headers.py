"""Header blocks: what a call asks for, and how its end is told.

Reading keeps the table that both sides of a connection share (RFC 7541). Most calls of a connection
have a block that the one before had too, and whose reading changes nothing; those are looked up.
"""

import base64
import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar
from urllib.parse import quote

import hpack
from hpack.table import HeaderTable

from setpoint_rpc.http2.frames import ConnectionFailure, ErrorCode, StreamFailure

MAXIMUM_METADATA_BYTES = 16 * 1024
"""Of names and values; a call with more is refused."""

MAXIMUM_BLOCK_BYTES = 64 * 1024
"""Of names and values; a connection with more in one block is ended."""

Metadata = tuple[tuple[str, str | bytes], ...]

_MAXIMUM_BLOCK_PARTS = 64
_KNOWN_BLOCKS = 128
_LONGEST_KNOWN_BLOCK = 1024
_STATIC: tuple[tuple[bytes, bytes], ...] = tuple(HeaderTable.STATIC_TABLE)

_INDEXED = 0x80
_INDEXED_MASK = 0x7F
_LITERAL = 0xF0
_NAME_MASK = 0x0F
_HUFFMAN = 0x80

_CONTENT_TYPE = b"application/grpc"
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
# Of one connection, not of a message: whoever sends them speaks HTTP/1.1 (RFC 9113, section 8.2.2).
_CONNECTION_FIELDS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
# Of the transport; handlers are not shown them.
_RESERVED = frozenset((b"te", b"content-type", b"content-length"))
_OF_STATUS = frozenset((b"grpc-status", b"grpc-message"))
# What would look like further fields wherever one prints or forwards them.
_BREAK = re.compile(rb"[\0\r\n]")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[ -~]*")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_PLAIN = bytes(each for each in range(0x20, 0x7F) if each != ord("%"))

Pairs = list[tuple[bytes, bytes]]
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Head:
    """What a call asks for."""

    method: str
    """Such as `/package.Service/Method`."""
    invocation_metadata: Metadata
    timeout_seconds: float | None
    encoding: bytes
    """How messages that say so are compressed."""
    http_status: int
    """OK, or what a request that is no gRPC call is answered with."""
    problem: str
    """What the call is refused for, empty when it may be served."""
    is_oversized: bool


class Block:
    """A header block that is still coming."""

    __slots__ = ("_parts", "content", "is_end", "stream")

    def __init__(self, stream: int, first: bytes, *, is_end: bool) -> None:
        """Begin with its first part.

        Raises:
            ConnectionFailure: It is too long already.
        """
        self.stream = stream
        self.content = bytearray()
        self.is_end = is_end
        self._parts = 0
        self.add(first)

    def add(self, part: bytes) -> None:
        """Take in a further part.

        Raises:
            ConnectionFailure: There are too many, or it is too long (CVE-2024-27316).
        """
        self.content += part
        self._parts += 1
        if len(self.content) > MAXIMUM_BLOCK_BYTES or self._parts > _MAXIMUM_BLOCK_PARTS:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "headers too long")


class Reader(Generic[Parsed]):
    """Reads the header blocks of one connection, all of them and in order."""

    def __init__(self, parse: Callable[[Pairs], Parsed]) -> None:
        """Start with the empty table of a new connection; `parse` says what fields mean."""
        self._parse = parse
        self._decoder = hpack.Decoder(MAXIMUM_BLOCK_BYTES)
        self._entries: list[tuple[bytes, bytes]] = list(_STATIC)
        self._known: dict[bytes, Parsed] = {}

    def read(self, block: bytes) -> Parsed:
        """Return what a block means.

        Raises:
            ConnectionFailure: The block cannot be read, and so none after it.
            StreamFailure: The fields mean nothing.
        """
        found = self._known.get(block)
        if found is not None:
            return found
        pairs = self._quickly(block)
        if pairs is None:
            return self._parse(self._decoded(block))
        # Its reading leaves the table alone, so it means the same until the table changes.
        parsed = self._parse(pairs)
        if len(block) <= _LONGEST_KNOWN_BLOCK:
            if len(self._known) >= _KNOWN_BLOCKS:
                self._known.clear()
            self._known[block] = parsed
        return parsed

    def fields(self, block: bytes) -> Pairs:
        """Return the fields of a block, whatever they are.

        Raises:
            ConnectionFailure: The block cannot be read.
        """
        pairs = self._quickly(block)
        return self._decoded(block) if pairs is None else pairs

    def _decoded(self, block: bytes) -> Pairs:
        if len(block) > MAXIMUM_BLOCK_BYTES:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "headers too long")
        try:
            pairs = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "headers too long") from error
        except (hpack.HPACKError, ValueError) as error:
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, "headers unreadable") from error
        entries = [*_STATIC, *self._decoder.header_table.dynamic_entries]
        if entries != self._entries:
            # What is known was known under the table as it was.
            self._known.clear()
            self._entries = entries
        return pairs

    def _quickly(self, block: bytes) -> Pairs | None:
        """Return the fields of a block that leaves the table alone and is not packed, else None."""
        if len(block) > MAXIMUM_BLOCK_BYTES:
            return None
        entries = self._entries
        pairs: Pairs = []
        place, end, size = 0, len(block), 0
        while place < end:
            first = block[place]
            place += 1
            if first & _INDEXED:
                index = first & _INDEXED_MASK
                if not 0 < index < _INDEXED_MASK or index > len(entries):
                    return None
                pair = entries[index - 1]
            elif first & _LITERAL in (0x00, 0x10) and first & _NAME_MASK == 0:
                if place >= end or (length := block[place]) >= _INDEXED_MASK:
                    return None
                middle = place + 1 + length
                if middle >= end or (length := block[middle]) >= _INDEXED_MASK:
                    return None
                begin, place_after = middle + 1, middle + 1 + length
                if place_after > end:
                    return None
                pair = (block[place + 1 : middle], block[begin:place_after])
                place = place_after
            else:
                return None
            size += len(pair[0]) + len(pair[1]) + 32
            pairs.append(pair)
        return pairs if size <= MAXIMUM_BLOCK_BYTES else None


def head_of(pairs: Pairs) -> Head:
    """Return what the fields of a request ask for.

    Raises:
        StreamFailure: They are no request (RFC 9113, section 8.3).
    """
    pseudo: dict[bytes, bytes] = {}
    fields: dict[bytes, bytes] = {}
    metadata: list[tuple[str, str | bytes]] = []
    problem, size = "", 0
    for name, value in pairs:
        size += len(name) + len(value)
        if name.startswith(b":"):
            if fields or name not in _PSEUDO or name in pseudo:
                raise StreamFailure(ErrorCode.PROTOCOL_ERROR)
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or name in _CONNECTION_FIELDS or _BREAK.search(value):
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR)
        fields[name] = value
        if name in _RESERVED or name.startswith(b"grpc-"):
            continue
        try:
            metadata += _metadata_values(name, value)
        except ValueError:
            problem = f"metadata {name.decode('ascii')} is not encoded as gRPC has it"
    path = pseudo.get(b":path", b"")
    if not path or not pseudo.get(b":method") or b":scheme" not in pseudo:
        raise StreamFailure(ErrorCode.PROTOCOL_ERROR)
    if fields.get(b"te", b"trailers") != b"trailers":
        raise StreamFailure(ErrorCode.PROTOCOL_ERROR)
    timeout = fields.get(b"grpc-timeout")
    seconds = None if timeout is None else _seconds(timeout)
    if timeout is not None and seconds is None:
        shown = timeout[:32].decode("ascii", "backslashreplace")
        problem = f"grpc-timeout {shown!r} must be up to eight digits and one of H M S m u n"
    return Head(
        method=path.decode("utf-8", "replace"),
        invocation_metadata=tuple(metadata),
        timeout_seconds=seconds,
        encoding=fields.get(b"grpc-encoding", b"identity"),
        http_status=_http_status(pseudo[b":method"], fields.get(b"content-type", b"")),
        problem=problem,
        is_oversized=size > MAXIMUM_METADATA_BYTES,
    )


def metadata_of(fields: Pairs) -> Metadata:
    """Return what the fields of an answer hold beside the transport's own, unreadable ones left out."""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name.startswith(b":") or name in _RESERVED or name in _OF_STATUS:
            continue
        with contextlib.suppress(ValueError):
            metadata += _metadata_values(name, value)
    return tuple(metadata)


def _http_status(method: bytes, content_type: bytes) -> int:
    if method != b"POST":
        return HTTPStatus.METHOD_NOT_ALLOWED
    kind, rest = content_type[: len(_CONTENT_TYPE)].lower(), content_type[len(_CONTENT_TYPE) :]
    if kind != _CONTENT_TYPE or rest[:1] not in (b"", b"+", b";"):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return HTTPStatus.OK


def _seconds(timeout: bytes) -> float | None:
    found = _TIMEOUT.fullmatch(timeout)
    return None if found is None else int(found[1]) * _SECONDS[found[2]]


def _metadata_values(name: bytes, value: bytes) -> list[tuple[str, str | bytes]]:
    """Return the values of one field.

    Raises:
        ValueError: They are not encoded as their name says.
    """
    key = name.decode("ascii")
    if not name.endswith(b"-bin"):
        return [(key, value.decode("utf-8", "replace"))]
    # Several values of one name may have been joined; padding is optional.
    parts = [each.strip().rstrip(b"=") for each in value.split(b",")]
    return [
        (key, base64.b64decode(each + b"=" * (-len(each) % 4), validate=True)) for each in parts
    ]


def block(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a block that asks nothing of the reader's table."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in pairs)


def _string(text: bytes) -> bytes:
    return _integer(len(text)) + text


def _integer(value: int) -> bytes:
    """Return a length in the form of header compression, seven bits at first."""
    if value < _INDEXED_MASK:
        return bytes((value,))
    written = [_INDEXED_MASK]
    value -= _INDEXED_MASK
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def encoded(metadata: Iterable[tuple[str, str | bytes]]) -> Pairs:
    """Return metadata as fields."""
    pairs: Pairs = []
    for name, value in metadata:
        if name.endswith("-bin"):
            raw = value.encode() if isinstance(value, str) else value
            pairs.append((name.encode("ascii"), base64.b64encode(raw).rstrip(b"=")))
        else:
            text = value.encode("ascii") if isinstance(value, str) else bytes(value)
            pairs.append((name.encode("ascii"), text))
    return pairs


def checked(metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """Return metadata that a handler wants to be sent.

    Raises:
        ValueError: A name or a value is none that can be sent.
    """
    kept = tuple((name, value) for name, value in metadata)
    for name, value in encoded(kept):
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"metadata {name!r} must have a lower-case name and printable ASCII")
    return kept


def percent_encoded(text: str) -> bytes:
    """Return a status text as its field holds it."""
    return quote(text, safe=_PLAIN, errors="replace").encode("ascii")


def status_fields(code: int, message: str, metadata: Iterable[tuple[str, str | bytes]]) -> Pairs:
    """Return the fields that end a call."""
    pairs = [(b"grpc-status", b"%d" % code)]
    if message:
        pairs.append((b"grpc-message", percent_encoded(message)))
    return pairs + encoded(metadata)


RESPONSE = b"\x88" + block(((b"content-type", b"application/grpc"),))
"""The block that begins an answer: status 200 by its place in the table, and our field."""

GOOD_END = block(((b"grpc-status", b"0"),))
"""The block that ends an answered call."""


def plain_response(http_status: int) -> bytes:
    """Return the block of an answer to a request that is no gRPC call."""
    return b"\x08" + _string(b"%d" % http_status) + block(((b"content-length", b"0"),))
