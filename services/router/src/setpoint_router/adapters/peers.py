"""The other services as the router sees them."""

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from setpoint.monitoring.v1 import ingest_service_pb2
from setpoint.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from setpoint_columns import Columns
from setpoint_columns import proto as columns_proto
from setpoint_router import ports
from setpoint_router.convert import routes
from setpoint_router.domain.route import FeatureSet
from setpoint_rpc import channel, context
from setpoint_runtime import errors

CONTROL_SECONDS = 5.0
SHIP_SECONDS = 10.0
_INGEST = "/setpoint.monitoring.v1.IngestService/IngestPredictions"


class FeatureClient:
    """The feature service; implements `Features` and `FeatureDefinitions`."""

    def __init__(self, to_service: grpc.aio.Channel) -> None:
        self._stub = feature_service_pb2_grpc.FeatureServiceStub(to_service)

    async def fetch(
        self,
        feature_set: FeatureSet,
        entities: Columns,
        as_of_times: Sequence[int],
        timeout_seconds: float,
        traceparent: str | None,
    ) -> ports.FeatureAnswer:
        """Return the features of entities, rows as asked.

        Raises:
            SetpointError: The service does not answer as it should.
        """
        request = feature_service_pb2.GetOnlineFeaturesRequest(
            feature_set=_reference(feature_set),
            entities=columns_proto.to_proto(entities),
            as_of_times=as_of_times,
            shared_event_times=True,
        )
        answer = await _called(
            self._stub.GetOnlineFeatures(
                request, timeout=timeout_seconds, metadata=_metadata(traceparent)
            )
        )
        features = columns_proto.from_proto(answer.features, "features")
        found = ports.FeatureAnswer(
            features,
            list(answer.statuses),
            _event_times(answer),
            list(answer.history_views),
        )
        _check_features(found, entities.rows)
        return found

    async def get_feature_set(self, feature_set: FeatureSet) -> ports.FeatureSetDefinition:
        """Return a definition.

        Raises:
            SetpointError: There is none, or the service does not answer.
        """
        answer = await _called(
            self._stub.GetFeatureSet(
                feature_service_pb2.GetFeatureSetRequest(feature_set=_reference(feature_set)),
                timeout=CONTROL_SECONDS,
            )
        )
        return routes.definition_from_proto(answer, await self._sensitive(answer.feature_set))

    async def _sensitive(self, feature_set: Any) -> list[str]:
        """Return the columns of a feature set whose view marks them as sensitive."""
        marked: dict[tuple[str, str], set[str]] = {}
        for each in feature_set.features:
            view = (each.view, each.view_version)
            if view not in marked:
                answer = await _called(
                    self._stub.GetFeatureView(
                        feature_service_pb2.GetFeatureViewRequest(
                            name=each.view, version=each.view_version
                        ),
                        timeout=CONTROL_SECONDS,
                    )
                )
                marked[view] = {field.name for field in answer.view.fields if field.sensitive}
        return [
            each.alias or each.field
            for each in feature_set.features
            if each.field in marked[each.view, each.view_version]
        ]


def _event_times(answer: feature_service_pb2.GetOnlineFeaturesResponse) -> list[bytes]:
    """Return the event times of each column; a service that does not share them sends them so."""
    times = list(answer.event_times)
    positions = answer.event_time_positions
    # What points nowhere is left out, and the answer is refused for having too few.
    return [times[at] for at in positions if 0 <= at < len(times)] if positions else times


def _check_features(answer: ports.FeatureAnswer, rows: int) -> None:
    """Refuse an answer whose parts do not fit each other.

    Raises:
        InternalError: They do not.
    """
    count = len(answer.features)
    fits = (
        answer.features.rows == rows
        and len(answer.statuses) == len(answer.value_times) == count
        and all(len(each) == rows for each in answer.statuses)
        and all(len(each) == 8 * rows for each in answer.value_times)
    )
    if not fits:
        raise errors.InternalError(
            errors.Reason.INTERNAL, f"the feature service did not answer {rows} whole rows"
        )


class RegistryClient:
    """The registry; implements `Registry`."""

    def __init__(self, to_service: grpc.aio.Channel) -> None:
        self._stub = registry_service_pb2_grpc.RegistryServiceStub(to_service)

    async def get_version(self, model: str, version: int) -> ports.RegisteredVersion:
        """Return a version.

        Raises:
            SetpointError: There is none, or the registry does not answer.
        """
        request = registry_service_pb2.GetModelVersionRequest(
            model_version=reference_pb2.ModelVersionReference(model=model, version=version)
        )
        answer = await _called(self._stub.GetModelVersion(request, timeout=CONTROL_SECONDS))
        return routes.registered_from_proto(answer.model_version)


class MonitoringClient:
    """The ingest service of monitoring."""

    def __init__(self, to_service: grpc.aio.Channel) -> None:
        # The records are serialised already; their bytes are put into the request as they are.
        self._ingest: Any = to_service.unary_unary(
            _INGEST,
            request_serializer=None,
            response_deserializer=ingest_service_pb2.IngestPredictionsResponse.FromString,
        )

    async def send(self, records: Sequence[bytes]) -> None:
        """Send serialised PredictionRecords; return once monitoring has stored them.

        Raises:
            SetpointError: It has not.
        """
        await _called(self._ingest(ingest_request(records), timeout=SHIP_SECONDS))


_RECORDS_TAG = b"\x0a"
"""Field 1, length-delimited: `repeated PredictionRecords records` of IngestPredictionsRequest."""


def ingest_request(records: Sequence[bytes]) -> bytes:
    """Returns a serialised IngestPredictionsRequest of serialised records."""
    parts = []
    for record in records:
        parts.append(_RECORDS_TAG + _varint(len(record)))
        parts.append(record)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


async def _called(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise channel.from_rpc_error(error) from error


def _metadata(traceparent: str | None) -> tuple[tuple[str, str], ...] | None:
    return None if traceparent is None else ((context.TRACEPARENT_KEY, traceparent),)


def _reference(feature_set: FeatureSet) -> reference_pb2.FeatureSetReference:
    return reference_pb2.FeatureSetReference(name=feature_set.name, version=feature_set.version)
