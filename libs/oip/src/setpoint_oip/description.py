"""Descriptions of models, from whichever server.

Field 6 of `ModelMetadataResponse` has two types in published stubs: a map of texts, and in MLServer's a
map of parameters. Neither is needed, and neither may keep the rest from being read.
"""

from typing import Any, Final

import grpc.aio
from google.protobuf.message import DecodeError

from setpoint_oip.protocol import open_inference_pb2 as pb

_METHOD: Final = "/inference.GRPCInferenceService/ModelMetadata"
_AMBIGUOUS_FIELD: Final = 6
_FIXED: Final = {1: 8, 5: 4}
"""Bytes of the values of a wire type."""


def caller(opened: grpc.aio.Channel) -> Any:
    """Return the callable of ModelMetadata, as a stub has it."""
    return opened.unary_unary(
        _METHOD,
        request_serializer=pb.ModelMetadataRequest.SerializeToString,
        response_deserializer=read,
    )


def read(raw: bytes) -> pb.ModelMetadataResponse:
    """Return a description, without field 6 where that is of the other type.

    Raises:
        DecodeError: The bytes are no description.
    """
    try:
        return pb.ModelMetadataResponse.FromString(raw)
    except DecodeError:
        return pb.ModelMetadataResponse.FromString(_without(raw, _AMBIGUOUS_FIELD))


def _without(raw: bytes, number: int) -> bytes:
    """Return the bytes of a message without one of its fields."""
    kept, at = [], 0
    while at < len(raw):
        start = at
        tag, at = _varint(raw, at)
        wire_type = tag & 7
        if wire_type == 0:
            _, at = _varint(raw, at)
        elif wire_type == 2:
            size, at = _varint(raw, at)
            at += size
        elif wire_type in _FIXED:
            at += _FIXED[wire_type]
        else:
            raise DecodeError("the bytes are no message")
        if tag >> 3 != number:
            kept.append(raw[start:at])
    return b"".join(kept)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = shift = 0
    while at < len(raw):
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise DecodeError("the bytes end within a number")
