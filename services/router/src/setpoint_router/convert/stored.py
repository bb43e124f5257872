"""Revisions to and from bytes, for the database and the file of last resort."""

import base64
import json
import zlib
from collections.abc import Iterable

import numpy as np

from setpoint.router.v1 import route_pb2
from setpoint_router.convert import routes
from setpoint_router.domain import assignment
from setpoint_router.domain.route import Content, Route

_FORMAT = 1


def content_bytes(route: Route) -> bytes:
    """Returns a revision without its slots."""
    return routes.route_to_proto(route).SerializeToString()


def slot_bytes(route: Route) -> bytes:
    """Returns the slot table of a revision."""
    return route.slots.astype("<i4").tobytes()


def content_from_bytes(content: bytes) -> Content:
    """Returns what people decided in a revision."""
    return routes.content_from_proto(route_pb2.Route.FromString(content))


def route_from_bytes(content: bytes, slots: bytes) -> Route:
    """Returns a revision as it was stored.

    Raises:
        ValueError: The bytes are none.
    """
    message = route_pb2.Route.FromString(content)
    table = np.frombuffer(slots, "<i4").astype(np.int32)
    if len(table) != assignment.SLOTS:
        raise ValueError(f"{len(table)} slots are stored for route {message.name}")
    table.setflags(write=False)
    return Route(
        content=routes.content_from_proto(message),
        revision=message.revision,
        valid_from=message.valid_from,
        served=tuple(routes.served_from_proto(each) for each in message.served_versions),
        slots=table,
        moved_slots=message.moved_slots,
    )


def snapshot_bytes(found: Iterable[Route]) -> bytes:
    """Returns revisions as the content of a file."""
    body = json.dumps(
        [
            {
                "content": base64.b64encode(content_bytes(each)).decode(),
                "slots": base64.b64encode(zlib.compress(slot_bytes(each))).decode(),
            }
            for each in found
        ]
    )
    return json.dumps(
        {"format": _FORMAT, "checksum": zlib.crc32(body.encode()), "routes": body}
    ).encode()


def routes_from_snapshot(data: bytes) -> list[Route]:
    """Returns the revisions of a file.

    Raises:
        ValueError: The content is not what was written.
    """
    try:
        found = json.loads(data)
        body = found["routes"]
        if found["format"] != _FORMAT or found["checksum"] != zlib.crc32(body.encode()):
            raise ValueError("the checksum of the routes does not fit")
        return [
            route_from_bytes(
                base64.b64decode(each["content"]),
                zlib.decompress(base64.b64decode(each["slots"])),
            )
            for each in json.loads(body)
        ]
    except (KeyError, TypeError, zlib.error) as error:
        raise ValueError(f"the file of routes cannot be read: {error}") from error
