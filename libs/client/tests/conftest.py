"""In-process servers that speak the contract with canned answers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_health.v1 import (  # type: ignore[import-untyped]  # ships no annotations
    health,
    health_pb2_grpc,
)

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2, feature_service_pb2_grpc
from setpoint.monitoring.v1 import (
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    monitoring_service_pb2,
    monitoring_service_pb2_grpc,
    prediction_pb2,
)
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_client import AsyncClient, Client, Columns, DataType, RetryPolicy
from setpoint_columns import proto as columns_proto
from setpoint_columns import value as values


@dataclass
class Failure:
    """What a server fails with, and how often before it answers."""

    code: grpc.StatusCode
    times: int = 1_000_000
    details: list[Any] = field(default_factory=list)
    trailing: list[tuple[str, str]] = field(default_factory=list)


class Server(
    router_service_pb2_grpc.RouterServiceServicer,
    feature_service_pb2_grpc.FeatureServiceServicer,
    ingest_service_pb2_grpc.IngestServiceServicer,
    monitoring_service_pb2_grpc.MonitoringServiceServicer,
):
    """Answers as the contract says, remembers what it was asked, fails when told to."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.remaining: list[float] = []
        self.failure: Failure | None = None
        self.gate = threading.Event()
        """Nothing is answered while it is not set."""
        self.gate.set()
        self.address = ""
        self.loses_statuses = False
        self.history_views: list[str] = []
        self.features = 0
        self.streams = 0
        self.batches_per_stream = 1_000_000
        """After so many a stream of writes breaks off; the last of them is stored and has no answer."""
        self.refused: dict[int, str] = {}
        """Batches of streams that are refused, by their number."""
        self.stored: list[str] = []
        """Ids of the batches of streams, each once, as they were stored."""

    def settings(self) -> dict[str, Any]:
        names = ("router", "feature", "monitoring")
        addresses = {f"{name}_address": self.address for name in names}
        return {**addresses, "caller": "tests", "retry": RetryPolicy(initial_seconds=0.001)}

    def note(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        self.gate.wait(30)
        if self.failure is not None and self.failure.times > 0:
            self.failure.times -= 1
            self._fail(self.failure, context)

    def _fail(self, failure: Failure, context: grpc.ServicerContext) -> None:
        status = status_pb2.Status(code=failure.code.value[0], message="told to fail")
        for detail in failure.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        rich = ("grpc-status-details-bin", status.SerializeToString())
        context.set_trailing_metadata((rich, *failure.trailing))
        context.abort(failure.code, "told to fail")

    def Predict(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        answer = router_service_pb2.PredictResponse(
            prediction_id="0190a8c0-0000-7000-8000-000000000001",
            assignment=_assignment(request.route),
            feature_set=reference_pb2.FeatureSetReference(name="flights", version="ab12"),
            outputs={"probability": values.to_proto(0.25), "late": values.to_proto(False)},
        )
        kind = router_service_pb2.DEGRADATION_KIND_FEATURE_STALE
        answer.degradations.add(kind=kind, subject="wind")
        return answer

    def PredictBatch(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        rows = request.rows.rows
        failed = [index % 5 == 4 for index in range(rows)]
        results = Columns.from_dict(
            {
                "prediction_id": (DataType.STRING, [f"id-{index}" for index in range(rows)]),
                "version": (DataType.INT64, [3] * rows),
                "slot": (DataType.INT32, list(range(rows))),
                "reason": (DataType.INT32, [2] * rows),
                "status": (DataType.INT32, [3 if bad else 0 for bad in failed]),
                "error": (DataType.STRING, ["NULL_REFUSED: x" if bad else None for bad in failed]),
                "degradations": (DataType.STRING, [None] * rows),
            }
        )
        outputs = Columns.from_dict(
            {"probability": (DataType.FLOAT64, [None if bad else 0.5 for bad in failed])}
        )
        return router_service_pb2.PredictBatchResponse(
            results=columns_proto.to_proto(results),
            outputs=columns_proto.to_proto(outputs),
            route_revision=7,
        )

    def PredictStream(self, stream: Iterator[Any], context: Any) -> Iterator[Any]:
        self.streams += 1
        for question in stream:
            self.note(question, context)
            answer = router_service_pb2.PredictStreamResponse(
                correlation_id=question.correlation_id
            )
            if question.request.route == "trains":
                answer.failure.code = grpc.StatusCode.NOT_FOUND.value[0]
                answer.failure.reason = "ROUTE_NOT_FOUND"
                answer.failure.message = "no such route"
                answer.failure.metadata["route"] = "trains"
                answer.failure.violations.add(field="route", description="must exist")
                answer.failure.retry_after_microseconds = 250_000
            else:
                answer.answer.CopyFrom(self.Predict(question.request, context))
            yield answer

    def PredictBatchStream(self, stream: Iterator[Any], context: Any) -> Iterator[Any]:
        self.streams += 1
        for number, chunk in enumerate(stream):
            batch = self.PredictBatch(chunk, context)
            yield router_service_pb2.PredictBatchStreamResponse(
                chunk=number,
                results=batch.results,
                outputs=batch.outputs,
                route_revision=batch.route_revision,
            )

    def ExplainAssignment(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return router_service_pb2.ExplainAssignmentResponse(
            assignment=_assignment(request.route), explanation="slot 42 belongs to version 3"
        )

    def GetRoute(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return router_service_pb2.GetRouteResponse(route=route_pb2.Route(name=request.name))

    def WriteFeatures(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        rows = request.rows.rows
        return feature_service_pb2.WriteFeaturesResponse(
            rows_written=rows, online_updated=rows - 1, online_applied=True
        )

    def StreamFeatures(self, stream: Iterator[Any], context: Any) -> Iterator[Any]:
        self.streams += 1
        for count, each in enumerate(stream, 1):
            self.note(each, context)
            answer = feature_service_pb2.StreamFeaturesResponse(sequence=each.sequence)
            if each.sequence in self.refused:
                answer.failure.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
                answer.failure.reason = self.refused[each.sequence]
                yield answer
                continue
            is_new = each.batch.batch_id not in self.stored
            if is_new:
                self.stored.append(each.batch.batch_id)
            if count >= self.batches_per_stream:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
                context.abort(grpc.StatusCode.UNAVAILABLE, "told to break off")
            answer.written.rows_written = each.batch.rows.rows
            answer.written.online_applied = True
            answer.written.replayed = not is_new
            if each.batch.keep_good_rows:
                answer.written.rows_refused = 1
                answer.written.row_errors.add(
                    row=1, column="x", rule="must be good", reason="WRONG_TYPE"
                )
            yield answer

    def GetFeatureSet(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        answer = feature_service_pb2.GetFeatureSetResponse(
            feature_set=definition_pb2.FeatureSet(name=request.feature_set.name, version="ab12")
        )
        answer.key_columns.add(name="carrier")
        for _ in range(self.features):
            answer.feature_set.features.add(dtype=column_pb2.DATA_TYPE_FLOAT64)
        return answer

    def GetOnlineFeatures(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        answer = feature_service_pb2.GetOnlineFeaturesResponse(**_features(request.entities.rows))
        answer.history_views.extend(self.history_views)
        if self.loses_statuses:
            del answer.statuses[1:]
        return answer

    def GetHistoricalFeatures(self, stream: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in stream:
            self.note(request, context)
            yield feature_service_pb2.GetHistoricalFeaturesResponse(**_features(request.spine.rows))

    def IngestOutcomes(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return ingest_service_pb2.IngestOutcomesResponse(stored=request.outcomes.rows, duplicates=1)

    def GetPrediction(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return monitoring_service_pb2.GetPredictionResponse(
            prediction=_story(request.prediction_id)
        )


def _assignment(route: str) -> route_pb2.Assignment:
    return route_pb2.Assignment(
        route=route,
        route_revision=7,
        model_version=reference_pb2.ModelVersionReference(model="delays", version=3),
        slot=42,
        reason=route_pb2.ASSIGNMENT_REASON_SLOT,
    )


def _features(rows: int) -> dict[str, Any]:
    table = Columns.from_dict(
        {
            "wind": (DataType.FLOAT64, [float(row) for row in range(rows)]),
            "sky": (DataType.STRING, [None] * rows),
        }
    )
    return {
        "feature_set": reference_pb2.FeatureSetReference(name="flights", version="ab12"),
        "features": columns_proto.to_proto(table),
        "statuses": [bytes([1] * rows), bytes([3] * rows)],
        "event_times": [
            np.arange(rows, dtype="<i8").tobytes(),
            np.full(rows, -1, "<i8").tobytes(),
        ],
    }


def _story(prediction_id: str) -> prediction_pb2.Prediction:
    row = Columns.from_dict({"carrier": (DataType.STRING, ["UA"])})
    story = prediction_pb2.Prediction(
        prediction_id=prediction_id,
        event_time=1_000_000,
        arrival_time=2_000_000,
        reply_time=2_001_000,
        route="flight-delays",
        route_revision=7,
        model_version=reference_pb2.ModelVersionReference(model="delays", version=3),
        assignment_key="UA",
        slot=42,
        assignment_reason=2,
        entities=columns_proto.to_proto(row),
        inputs=columns_proto.to_proto(row),
        outputs=columns_proto.to_proto(Columns.from_dict({"p": (DataType.FLOAT64, [0.5])})),
        degradations=["RULE_FLAGGED:range_wind"],
        trace_id="ab" * 16,
        caller="tests",
        stage_microseconds={"total": 900},
        inference_replica="10.0.0.1:7401",
        request_id="mine",
        headers={"x-tenant": "blue"},
    )
    story.provenance.add(input="carrier", status=5)
    story.provenance.add(input="wind", status=1, event_time=500_000)
    story.outcomes.add(
        prediction_id=prediction_id, label=1.0, event_time=3_000_000, arrival_time=4_000_000
    )
    return story


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port; threads, so that it serves both clients alike."""
    # The stubs declare every method abstract; at run time those left out answer UNIMPLEMENTED.
    service = Server()  # type: ignore[abstract]
    running = grpc.server(futures.ThreadPoolExecutor(4, "canned"))
    router_service_pb2_grpc.add_RouterServiceServicer_to_server(service, running)
    feature_service_pb2_grpc.add_FeatureServiceServicer_to_server(service, running)
    ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(service, running)
    monitoring_service_pb2_grpc.add_MonitoringServiceServicer_to_server(service, running)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    service.address = f"127.0.0.1:{port}"
    running.start()
    yield service
    running.stop(0).wait()


class Both:
    """The async client behind the sync one's interface, so that one test proves both."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            made = method(*args, **kwargs)
            return _taken(made) if isinstance(made, AsyncIterator) else _LOOP.run(made)

        return call


def _taken(answers: AsyncIterator[Any]) -> Iterator[Any]:
    """Takes answers one by one, as the other client's callers do."""
    while True:
        try:
            yield _LOOP.run(anext(answers))
        except StopAsyncIteration:
            return


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="client-loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


_LOOP = _Loop()


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """Each of the two clients, connected to the server."""
    if request.param == "sync":
        with Client(**server.settings()) as made:
            yield made
        return
    other = AsyncClient(**server.settings())
    yield Both(other)
    _LOOP.run(other.close())


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[AsyncClient]:
    """The async client in the test's own loop."""
    async with AsyncClient(**server.settings()) as made:
        yield made
