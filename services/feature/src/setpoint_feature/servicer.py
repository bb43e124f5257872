"""The RPCs: convert, call, convert."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import grpc.aio
from google.protobuf import message as protobuf
from opentelemetry import trace

from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint.feature.v1 import feature_service_pb2_grpc
from setpoint_db import idempotency
from setpoint_feature import convert, ports
from setpoint_feature.domain import definitions as domain
from setpoint_feature.service import (
    ahead,
    definitions,
    joining,
    leakage,
    serving,
    write_stream,
    writing,
)
from setpoint_rpc import context as calls
from setpoint_runtime import errors
from setpoint_telemetry import names

SERVICE_NAME = "setpoint.feature.v1.FeatureService"
_Context = grpc.aio.ServicerContext[Any, Any]


class FeatureServicer(feature_service_pb2_grpc.FeatureServiceServicer):
    """Answers `setpoint.feature.v1.FeatureService`."""

    def __init__(
        self,
        definition_service: definitions.DefinitionService,
        writer: writing.Writer,
        online: serving.OnlineReader,
        historical: joining.HistoricalReader,
        leakage_checker: leakage.LeakageChecker,
        answer_bytes: int,
    ) -> None:
        """Serves the given parts."""
        self._definitions = definition_service
        self._writer = writer
        self._online = online
        self._historical = historical
        self._leakage = leakage_checker
        self._answer_bytes = answer_bytes

    async def RegisterEntity(
        self, request: pb.RegisterEntityRequest, context: _Context
    ) -> pb.RegisterEntityResponse:
        """Registers an entity."""
        wanted = convert.entity_from_proto(request.entity)
        stored, replayed = await self._definitions.register_entity(
            _wish(request, "RegisterEntity", request.entity), wanted
        )
        return pb.RegisterEntityResponse(entity=convert.entity_to_proto(stored), replayed=replayed)

    async def GetEntity(
        self, request: pb.GetEntityRequest, context: _Context
    ) -> pb.GetEntityResponse:
        """Reads an entity."""
        found = await self._definitions.entity(request.name)
        return pb.GetEntityResponse(entity=convert.entity_to_proto(found))

    async def ListEntities(
        self, request: pb.ListEntitiesRequest, context: _Context
    ) -> pb.ListEntitiesResponse:
        """Lists entities."""
        page, token = self._definitions.entities(request.page_size, request.page_token)
        return pb.ListEntitiesResponse(
            entities=map(convert.entity_to_proto, page), next_page_token=token
        )

    async def RegisterFeatureView(
        self, request: pb.RegisterFeatureViewRequest, context: _Context
    ) -> pb.RegisterFeatureViewResponse:
        """Registers a view."""
        wanted = convert.view_from_proto(request.view)
        stored, replayed = await self._definitions.register_view(
            _wish(request, "RegisterFeatureView", request.view), wanted
        )
        return pb.RegisterFeatureViewResponse(view=convert.view_to_proto(stored), replayed=replayed)

    async def GetFeatureView(
        self, request: pb.GetFeatureViewRequest, context: _Context
    ) -> pb.GetFeatureViewResponse:
        """Reads a view."""
        found = await self._definitions.view(request.name, request.version)
        return pb.GetFeatureViewResponse(view=convert.view_to_proto(found))

    async def ListFeatureViews(
        self, request: pb.ListFeatureViewsRequest, context: _Context
    ) -> pb.ListFeatureViewsResponse:
        """Lists views."""
        page, token = self._definitions.views(request.page_size, request.page_token)
        return pb.ListFeatureViewsResponse(
            views=map(convert.view_to_proto, page), next_page_token=token
        )

    async def RegisterFeatureSet(
        self, request: pb.RegisterFeatureSetRequest, context: _Context
    ) -> pb.RegisterFeatureSetResponse:
        """Registers a feature set."""
        wanted = convert.feature_set_from_proto(request.feature_set)
        stored, replayed = await self._definitions.register_feature_set(
            _wish(request, "RegisterFeatureSet", request.feature_set), wanted
        )
        return pb.RegisterFeatureSetResponse(
            feature_set=convert.feature_set_to_proto(stored), replayed=replayed
        )

    async def GetFeatureSet(
        self, request: pb.GetFeatureSetRequest, context: _Context
    ) -> pb.GetFeatureSetResponse:
        """Reads a feature set."""
        asked = request.feature_set
        found = await self._definitions.feature_set(asked.name, asked.version)
        return pb.GetFeatureSetResponse(
            feature_set=convert.feature_set_to_proto(found.feature_set),
            key_columns=map(convert.spec_to_proto, found.key_columns),
            request_columns=map(convert.spec_to_proto, found.request_columns),
            sensitive_columns=found.sensitive_columns,
        )

    async def ListFeatureSets(
        self, request: pb.ListFeatureSetsRequest, context: _Context
    ) -> pb.ListFeatureSetsResponse:
        """Lists feature sets."""
        page, token = self._definitions.feature_sets(request.page_size, request.page_token)
        return pb.ListFeatureSetsResponse(
            feature_sets=map(convert.feature_set_to_proto, page), next_page_token=token
        )

    async def WriteFeatures(
        self, request: pb.WriteFeaturesRequest, context: _Context
    ) -> pb.WriteFeaturesResponse:
        """Writes rows of a view."""
        return convert.written_to_proto(await self._writer.write(convert.order_from_proto(request)))

    async def StreamFeatures(
        self, request_iterator: AsyncIterator[pb.StreamFeaturesRequest], context: _Context
    ) -> AsyncIterator[pb.StreamFeaturesResponse]:
        """Writes batches of rows, several on their way at once."""
        stream = write_stream.WriteStream(self._writer)
        async with contextlib.aclosing(
            stream.outcomes(convert.batches_from_proto(request_iterator))
        ) as outcomes:
            async for outcome in outcomes:
                yield convert.outcome_to_proto(outcome)

    async def GetOnlineFeatures(
        self, request: pb.GetOnlineFeaturesRequest, context: _Context
    ) -> pb.GetOnlineFeaturesResponse:
        """Reads the features of many entities from the online store."""
        asked = request.feature_set
        entities = convert.columns_from_proto(request.entities, "entities")
        answer = await self._online.read(
            asked.name,
            asked.version,
            entities,
            request.as_of_times,
            calls.remaining_seconds(),
        )
        _describe(answer.feature_set, entities.rows)
        return convert.online_to_proto(answer, shared_event_times=request.shared_event_times)

    async def GetHistoricalFeatures(
        self, request_iterator: AsyncIterator[pb.GetHistoricalFeaturesRequest], context: _Context
    ) -> AsyncIterator[pb.GetHistoricalFeaturesResponse]:
        """Joins a streamed spine with the history."""
        pieces = ahead.ahead(self._joined(request_iterator))
        async with contextlib.aclosing(pieces) as found:
            async for piece in found:
                for answer in piece:
                    yield answer

    async def _joined(
        self, requests: AsyncIterator[pb.GetHistoricalFeaturesRequest]
    ) -> AsyncGenerator[Iterator[pb.GetHistoricalFeaturesResponse], None]:
        """Yields the answers of each piece, whose messages are made when they are taken."""
        join: joining.Join | None = None
        piece = 0
        shared = False
        async for request in requests:
            if join is None:
                join = await self._historical.begin(_ask(request))
                shared = request.shared_event_times
            elif request.HasField("feature_set"):
                _check_same(request, join.feature_set, piece)
            spine = convert.columns_from_proto(request.spine, "spine")
            yield convert.historical_to_proto(
                join.feature_set,
                await join.piece(spine),
                piece,
                self._answer_bytes,
                shared_event_times=shared,
            )
            piece += 1

    async def ReadFeatureView(
        self, request: pb.ReadFeatureViewRequest, context: _Context
    ) -> AsyncIterator[pb.ReadFeatureViewResponse]:
        """Streams the stored rows of a view."""
        start, end, known_at = convert.range_from_proto(request)
        async for view, page in self._historical.scan(request.view, start, end, known_at):
            for answer in convert.rows_to_proto(view, page, self._answer_bytes):
                yield answer

    async def CheckLeakage(
        self, request: pb.CheckLeakageRequest, context: _Context
    ) -> pb.CheckLeakageResponse:
        """Judges a training table."""
        claims = convert.claims_from_proto(request.columns)
        table = convert.columns_from_proto(request.table, "table")
        time_column = request.time_column or domain.EVENT_TIME
        findings = await self._leakage.check(claims, table, time_column)
        return convert.findings_to_proto(claims, findings)


def _describe(feature_set: domain.FeatureSet, rows: int) -> None:
    """Puts the small facts of a read on the span of its call, when there is one."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(names.FEATURE_SET, feature_set.name)
        span.set_attribute(names.FEATURE_SET_VERSION, feature_set.version)
        span.set_attribute(names.ROWS, rows)


def _wish(request: Any, method: str, content: protobuf.Message) -> ports.Wish:
    """Returns what makes a registration recognisable; what the service sets does not count."""
    wanted = type(content)()
    wanted.CopyFrom(content)
    for field in ("version", "create_time"):
        if field in wanted.DESCRIPTOR.fields_by_name:
            wanted.ClearField(field)
    data = wanted.SerializeToString(deterministic=True)
    return ports.Wish(request.request_id, method, idempotency.fingerprint(method, data))


def _ask(request: pb.GetHistoricalFeaturesRequest) -> joining.Ask:
    return joining.Ask(
        feature_set=request.feature_set.name,
        version=request.feature_set.version,
        time_column=request.time_column or domain.EVENT_TIME,
        arrival=not request.as_of_event_time,
    )


def _check_same(
    request: pb.GetHistoricalFeaturesRequest, feature_set: domain.FeatureSet, piece: int
) -> None:
    asked = request.feature_set
    if asked.name != feature_set.name or asked.version not in ("", feature_set.version):
        raise errors.invalid(
            f"requests[{piece}].feature_set",
            f"{asked.name}@{asked.version}",
            "must be that of the first message",
        )
