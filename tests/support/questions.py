"""Questions about parcels as they travel on the wire: a good one, and ways to spoil it."""

from typing import Any

from tests.support import parcels

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import router_service_pb2

Request = router_service_pb2.PredictRequest


def text(value: str) -> value_pb2.Value:
    return value_pb2.Value(string_value=value)


def number(value: float) -> value_pb2.Value:
    return value_pb2.Value(double_value=value)


NULL = value_pb2.Value(null_value=value_pb2.NULL_VALUE_UNSPECIFIED)


def good() -> Request:
    """Makes a question that is answered."""
    return Request(
        route=parcels.ROUTE,
        assignment_key="somebody",
        entities={"depot": text(parcels.DEPOTS[0]), "crew": text(parcels.CREWS[0])},
        inputs={
            "distance": number(120.0),
            "kind": text("box"),
            "hour": value_pb2.Value(int_value=3),
        },
    )


def with_input(name: str, value: value_pb2.Value) -> Request:
    request = good()
    request.inputs[name].CopyFrom(value)
    return request


def without(part: str, name: str) -> Request:
    request = good()
    del getattr(request, part)[name]
    return request


def with_key(name: str, value: value_pb2.Value) -> Request:
    request = good()
    request.entities[name].CopyFrom(value)
    return request


def at(**fields: Any) -> Request:
    request = good()
    request.MergeFrom(Request(**fields))
    return request


def without_keys() -> Request:
    """Makes a question without keys that brings its inputs, all but one."""
    request = good()
    request.entities.clear()
    request.inputs["queue"].CopyFrom(number(1.0))
    request.inputs["staff"].CopyFrom(number(1.0))
    return request


def with_long_key_alone() -> Request:
    """Makes a question whose assignment key would be made of an entity key that is too long."""
    request = with_key("depot", text("x" * 2048))
    request.assignment_key = ""
    return request
