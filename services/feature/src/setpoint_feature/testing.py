"""Short ways to talk to a feature service, for tests."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto, value
from setpoint_rpc import channel as channels
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

if TYPE_CHECKING:
    from setpoint.feature.v1 import (
        audit_service_pb2_grpc,
        feature_service_pb2_grpc,
        snapshot_service_pb2_grpc,
    )

NOW = 1_700_000_000_000_000
"""The time of the tests' clock."""

Fields = Sequence[tuple[Any, ...]]
"""Name, type and, where there is one, default of each field."""


Table = dict[str, tuple[DataType, list[Any]]]
"""Columns as `Columns.from_dict` takes them."""


def spec(name: str, dtype: DataType) -> reference_pb2.FieldSpec:
    """Returns the message of a named, typed column."""
    return reference_pb2.FieldSpec(name=name, dtype=proto.data_type_to_proto(dtype))


def request_id() -> str:
    """Returns a new request id."""
    return str(uuid.uuid4())


def view_message(
    name: str, entity: str, fields: Fields, **options: Any
) -> definition_pb2.FeatureView:
    """Returns the message of a view; fields are name, type and, where there is one, default."""
    message = definition_pb2.FeatureView(name=name, entity=entity, **options)
    for each in fields:
        field = message.fields.add(name=each[0], dtype=proto.data_type_to_proto(each[1]))
        if len(each) > 2:
            field.default_value.CopyFrom(value.to_proto(each[2]))
    return message


def reference(
    view: str, field: str, alias: str = "", **key_columns: str
) -> definition_pb2.FeatureReference:
    """Returns the message of a reference to a field; keyword arguments rename keys."""
    return definition_pb2.FeatureReference(
        view=view, field=field, alias=alias, key_columns=key_columns
    )


async def error_of(call: Awaitable[Any]) -> errors.SetpointError:
    """Returns the typed error that a call ends with.

    Raises:
        AssertionError: The call succeeds.
    """
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return channels.from_rpc_error(error)
    raise AssertionError(f"answered {answer}")


@dataclass
class Answer:
    """An answer of a read, decoded."""

    values: dict[str, list[Any]]
    statuses: list[list[int]]
    event_times: list[list[int]]
    history_views: list[str]


def decode(response: pb.GetOnlineFeaturesResponse | pb.GetHistoricalFeaturesResponse) -> Answer:
    """Returns the content of an answer."""
    features = proto.from_proto(response.features)
    times = [list(memoryview(each).cast("q")) for each in response.event_times]
    if response.event_time_positions:
        times = [times[position] for position in response.event_time_positions]
    return Answer(
        {name: features[name].to_list() for name in features},
        [list(each) for each in response.statuses],
        times,
        list(getattr(response, "history_views", ())),
    )


def write_request(
    view: str, rows: Columns, batch_id: str | None = None, keep_good: bool = False
) -> pb.WriteFeaturesRequest:
    """Returns the request for a write."""
    return pb.WriteFeaturesRequest(
        batch_id=batch_id or request_id(),
        view=view,
        rows=proto.to_proto(rows),
        keep_good_rows=keep_good,
    )


class Client:
    """Calls of the feature service."""

    def __init__(self, stub: "feature_service_pb2_grpc.FeatureServiceAsyncStub") -> None:
        """Uses a stub, which is there for every call that has no short way here."""
        self.stub = stub

    async def entity(self, name: str, **keys: DataType) -> definition_pb2.Entity:
        """Registers an entity with the given keys."""
        entity = definition_pb2.Entity(
            name=name, keys=[spec(key, dtype) for key, dtype in keys.items()]
        )
        response = await self.stub.RegisterEntity(
            pb.RegisterEntityRequest(request_id=request_id(), entity=entity)
        )
        return response.entity

    async def view(
        self, name: str, entity: str, fields: Fields, **options: Any
    ) -> definition_pb2.FeatureView:
        """Registers a view."""
        response = await self.stub.RegisterFeatureView(
            pb.RegisterFeatureViewRequest(
                request_id=request_id(), view=view_message(name, entity, fields, **options)
            )
        )
        return response.view

    async def feature_set(
        self, name: str, features: Sequence[definition_pb2.FeatureReference], **options: Any
    ) -> definition_pb2.FeatureSet:
        """Registers a feature set."""
        wanted = definition_pb2.FeatureSet(name=name, features=features, **options)
        response = await self.stub.RegisterFeatureSet(
            pb.RegisterFeatureSetRequest(request_id=request_id(), feature_set=wanted)
        )
        return response.feature_set

    async def write(
        self,
        view: str,
        rows: Columns,
        batch_id: str | None = None,
        *,
        keep_good: bool = False,
    ) -> pb.WriteFeaturesResponse:
        """Writes rows, in a batch of their own unless told otherwise."""
        return await self.stub.WriteFeatures(
            write_request(view, rows, batch_id, keep_good), timeout=30
        )

    async def online(
        self, name: str, entities: Columns, *as_of: int, version: str = "", timeout: float = 30.0
    ) -> Answer:
        """Reads online."""
        response = await self.stub.GetOnlineFeatures(
            pb.GetOnlineFeaturesRequest(
                feature_set=reference_pb2.FeatureSetReference(name=name, version=version),
                entities=proto.to_proto(entities),
                as_of_times=as_of,
            ),
            timeout=timeout,
        )
        return decode(response)

    async def historical(
        self,
        name: str,
        *spine: Columns,
        time_column: str = "",
        by_event: bool = False,
        shared: bool = False,
    ) -> list[Answer]:
        """Joins a spine, given in pieces, with the history."""

        async def requests() -> AsyncIterator[pb.GetHistoricalFeaturesRequest]:
            for index, piece in enumerate(spine):
                request = pb.GetHistoricalFeaturesRequest(spine=proto.to_proto(piece))
                if index == 0:
                    request.feature_set.name = name
                    request.time_column = time_column
                    request.as_of_event_time = by_event
                    request.shared_event_times = shared
                yield request

        return [decode(each) async for each in self.stub.GetHistoricalFeatures(requests())]


@dataclass
class Running:
    """A service that runs, its clock and its server."""

    client: Client
    clock: clocks.ManualClock
    server: servers.Server
    audit: "audit_service_pb2_grpc.AuditServiceAsyncStub"
    snapshots: "snapshot_service_pb2_grpc.SnapshotServiceAsyncStub"


Start = Callable[..., AbstractAsyncContextManager[Running]]
"""Starts a service with some settings changed, for the length of a block."""
