"""The services around the router, as small deterministic servers for its tests.

They speak the real contracts over real gRPC on loopback, record what they were asked, and can be
told to fail or to be slow. Features are computed from keys, outputs from inputs, so that a test can
tell whose answer it got.
"""

import asyncio
import inspect
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2, feature_service_pb2_grpc
from setpoint.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from setpoint.monitoring.v1 import ingest_service_pb2, ingest_service_pb2_grpc, prediction_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint.validation.v1 import (
    suite_pb2,
    validation_service_pb2,
    validation_service_pb2_grpc,
)
from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_rpc import server as servers
from setpoint_runtime import errors

FEATURE_SET = ("flight", "f" * 64)
OTHER_SET = ("flight", "e" * 64)
"""Another version of it, in which `share` is 1000 more and there is no field `origin`."""
RANKING = 8
"""A version that also answers `rank`, a whole number: the hour, or null where that is negative."""
FRESH = 1
MISSING = 3
Context = grpc.aio.ServicerContext[Any, Any]
DoubleT = TypeVar("DoubleT")


@dataclass
class Behaviour:
    """What a double does beside answering."""

    delay_seconds: float = 0.0
    error: errors.SetpointError | None = None
    calls: int = 0
    rows: list[int] = field(default_factory=list)
    traceparents: list[str | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Time that each call had."""

    async def act(self, rows: int, context: Context) -> None:
        """Note a call, wait, and fail, as told."""
        self.calls += 1
        self.rows.append(rows)
        found = dict(context.invocation_metadata() or ())
        header = found.get("traceparent")
        self.traceparents.append(None if header is None else str(header))
        self.seconds.append(context.time_remaining() or math.inf)
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if self.error is not None:
            raise self.error


class FeatureDouble(feature_service_pb2_grpc.FeatureServiceServicer):
    """Features of a carrier: `share` is its key's length, `delay` the sum of its letters."""

    def __init__(self) -> None:
        self.online = Behaviour()
        self.statuses: dict[str, int] = {}
        """Status of both features by carrier; fresh by default."""
        self.history_views: tuple[str, ...] = ()
        """Views that are said to come from the history."""
        self.sensitive: set[str] = set()
        self.poison: Callable[[Columns], errors.SetpointError | None] | None = None
        """Looks at the entities of a call and may refuse them as a whole."""

    async def GetOnlineFeatures(
        self, request: feature_service_pb2.GetOnlineFeaturesRequest, context: Context
    ) -> feature_service_pb2.GetOnlineFeaturesResponse:
        """Compute the features of carriers."""
        entities = columns_proto.from_proto(request.entities, "entities")
        await self.online.act(entities.rows, context)
        if self.poison is not None and (error := self.poison(entities)) is not None:
            raise error
        keys = entities["carrier"].to_list()
        more = 1000 if request.feature_set.version == OTHER_SET[1] else 0
        statuses = bytes(3 if key is None else self.statuses.get(key, FRESH) for key in keys)
        shares = [None if s == 3 else more + len(k) for k, s in zip(keys, statuses, strict=True)]
        delays = [None if s == 3 else sum(map(ord, k)) for k, s in zip(keys, statuses, strict=True)]
        features = Columns.from_dict(
            {"share": (DataType.FLOAT64, shares), "delay": (DataType.FLOAT64, delays)}
        )
        times = np.array(request.as_of_times, np.int64)
        times = np.broadcast_to(times, (entities.rows,)) - 1000
        return feature_service_pb2.GetOnlineFeaturesResponse(
            feature_set=request.feature_set,
            features=columns_proto.to_proto(features),
            statuses=[statuses, statuses],
            event_times=[times.tobytes(), times.tobytes()],
            history_views=self.history_views,
        )

    async def GetFeatureSet(
        self, request: feature_service_pb2.GetFeatureSetRequest, context: Context
    ) -> feature_service_pb2.GetFeatureSetResponse:
        """Describe a version of the one feature set."""
        asked = (request.feature_set.name, request.feature_set.version)
        if asked not in (FEATURE_SET, OTHER_SET):
            raise errors.NotFoundError(errors.Reason.FEATURE_SET_NOT_FOUND, "no such feature set")
        fields = [
            reference_pb2.FieldSpec(name="hour", dtype=_INT64),
            reference_pb2.FieldSpec(name="origin", dtype=_STRING),
        ]
        return feature_service_pb2.GetFeatureSetResponse(
            feature_set=definition_pb2.FeatureSet(
                name=asked[0],
                version=asked[1],
                features=[
                    definition_pb2.FeatureReference(
                        view="carrier", field=name, view_version="v", dtype=_FLOAT64
                    )
                    for name in ("share", "delay")
                ],
                request_fields=fields if asked == FEATURE_SET else fields[:1],
            ),
            key_columns=[reference_pb2.FieldSpec(name="carrier", dtype=_STRING)],
        )

    async def GetFeatureView(
        self, request: feature_service_pb2.GetFeatureViewRequest, context: Context
    ) -> feature_service_pb2.GetFeatureViewResponse:
        """Describe the one view."""
        fields = [
            definition_pb2.FeatureField(name=name, dtype=_FLOAT64, sensitive=name in self.sensitive)
            for name in ("share", "delay")
        ]
        return feature_service_pb2.GetFeatureViewResponse(
            view=definition_pb2.FeatureView(name=request.name, fields=fields)
        )


class InferenceDouble(inference_service_pb2_grpc.InferenceServiceServicer):
    """`score` is the sum of a row's numbers plus a million times the version."""

    def __init__(self) -> None:
        self.run = Behaviour()
        self.loaded: list[tuple[str, int]] = []
        self.renewed: Counter[tuple[str, int]] = Counter()
        """How often the lease of each version was renewed."""
        self.dropped: set[tuple[str, int]] = set()
        """Versions that are not there although they were loaded."""
        self.leases: set[int] = set()
        """Lengths of leases that were asked for, microseconds."""
        self.load_error: errors.SetpointError | None = None
        self.version_errors: dict[int, errors.SetpointError] = {}
        self.gates: dict[int, asyncio.Event] = {}
        """Versions that do not answer before an event is set."""
        self.asked: Counter[int] = Counter()
        """Rows that each version was asked about."""
        self.poison: Callable[[Columns], errors.SetpointError | None] | None = None
        """Looks at the inputs of a call and may refuse them as a whole."""
        self.poisons: dict[int, Callable[[Columns], errors.SetpointError | None]] = {}
        """The same for one version."""

    async def Predict(
        self, request: inference_service_pb2.PredictRequest, context: Context
    ) -> inference_service_pb2.PredictResponse:
        """Compute scores."""
        inputs = columns_proto.from_proto(request.inputs, "inputs")
        await self.run.act(inputs.rows, context)
        version = request.model_version.version
        self.asked[version] += inputs.rows
        if version in self.gates:
            await self.gates[version].wait()
        if version in self.version_errors:
            raise self.version_errors[version]
        poison = self.poisons.get(version, self.poison)
        if poison is not None and (error := poison(inputs)) is not None:
            raise error
        scores = score(inputs, version)
        outputs = Columns(inputs.rows, [Column.from_numpy("score", scores)])
        if version == RANKING:
            ranks = [None if each < 0 else int(each) for each in inputs["hour"].to_list()]
            outputs = outputs.with_column(Column.from_list("rank", ranks, DataType.INT64))
        return inference_service_pb2.PredictResponse(
            model_version=request.model_version, outputs=columns_proto.to_proto(outputs)
        )

    async def LoadModel(
        self, request: inference_service_pb2.LoadModelRequest, context: Context
    ) -> inference_service_pb2.LoadModelResponse:
        """Remember a version."""
        if self.load_error is not None:
            raise self.load_error
        key = request.model_version.model, request.model_version.version
        self.loaded.append(key)
        self.dropped.discard(key)
        self.leases.add(request.lease_microseconds)
        return inference_service_pb2.LoadModelResponse(
            model=inference_service_pb2.LoadedModel(
                model_version=request.model_version,
                state=inference_service_pb2.LOAD_STATE_READY,
            )
        )

    async def RenewLeases(
        self, request: inference_service_pb2.RenewLeasesRequest, context: Context
    ) -> inference_service_pb2.RenewLeasesResponse:
        """Count renewals."""
        self.leases.add(request.lease_microseconds)
        answer = inference_service_pb2.RenewLeasesResponse()
        for each in request.model_versions:
            key = each.model, each.version
            self.renewed[key] += 1
            if key in self.dropped:
                answer.not_ready.append(each)
        return answer


def score(inputs: Columns, version: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns what the inference double answers."""
    total = np.full(inputs.rows, version * 1e6)
    for column in inputs.columns:
        if column.dtype is not DataType.STRING:
            total += np.nan_to_num(column.floats())
    return total


class RegistryDouble(registry_service_pb2_grpc.RegistryServiceServicer):
    """Model `delays`: version 3 is pending, 5 has a substitute for `origin`, 6 wants the other feature
    set, 7 to 9 none, 8 ranks, above none is.
    """

    async def GetModelVersion(
        self, request: registry_service_pb2.GetModelVersionRequest, context: Context
    ) -> registry_service_pb2.GetModelVersionResponse:
        """Describe a version."""
        asked = request.model_version
        if asked.model != "delays" or not 1 <= asked.version <= 9:
            raise errors.NotFoundError(
                errors.Reason.MODEL_VERSION_NOT_FOUND, f"no version {asked.version}"
            )
        is_pending, has_substitute = asked.version == 3, asked.version == 5
        inputs = [
            model_pb2.TensorSpec(
                name="numbers", dtype=_FLOAT32, columns=["share", "delay", "hour"]
            ),
            model_pb2.TensorSpec(name="origin", dtype=_STRING, columns=["origin"]),
        ]
        if has_substitute:
            rule = inputs[1].missing_values.add(column="origin")
            rule.substitute.string_value = "nowhere"
        manifest = model_pb2.Manifest(
            inputs=inputs[:1] if asked.version == 6 else inputs,
            score_column="score",
            outputs=[model_pb2.TensorSpec(name="score", dtype=_FLOAT64, columns=["score"])],
        )
        if asked.version == RANKING:
            manifest.outputs.add(name="rank", dtype=_INT64, columns=["rank"])
        if asked.version < 7:
            found = OTHER_SET if asked.version == 6 else FEATURE_SET
            manifest.feature_set.name, manifest.feature_set.version = found
        return registry_service_pb2.GetModelVersionResponse(
            model_version=model_pb2.ModelVersion(
                model=asked.model,
                version=asked.version,
                manifest=manifest,
                approval_state=(
                    model_pb2.APPROVAL_STATE_PENDING
                    if is_pending
                    else model_pb2.APPROVAL_STATE_APPROVED
                ),
            )
        )

    async def GetModel(
        self, request: registry_service_pb2.GetModelRequest, context: Context
    ) -> registry_service_pb2.GetModelResponse:
        """Describe the one model."""
        model = model_pb2.Model(name=request.name, task=model_pb2.TASK_REGRESSION)
        return registry_service_pb2.GetModelResponse(model=model)


class ValidationDouble(validation_service_pb2_grpc.ValidationServiceServicer):
    """Pushes the rules that a test puts."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._revision = 0
        self.rules: list[suite_pb2.Rule] = []
        self.is_silent = False
        """Do not send a snapshot, as a service that hangs."""

    def put(self, *rules: suite_pb2.Rule) -> None:
        """Push other rules."""
        self.rules = list(rules)
        self._revision += 1
        self._changed.set()

    async def WatchRules(
        self, request: validation_service_pb2.WatchRulesRequest, context: Context
    ) -> AsyncIterator[validation_service_pb2.WatchRulesResponse]:
        """Send the rules now and after each change."""
        while True:
            self._changed.clear()
            if not self.is_silent:
                suite = suite_pb2.Suite(name="s", feature_set=FEATURE_SET[0], rules=self.rules)
                yield validation_service_pb2.WatchRulesResponse(
                    revision=self._revision, suites=[suite]
                )
            await self._changed.wait()


class IngestDouble(ingest_service_pb2_grpc.IngestServiceServicer):
    """Keeps records by prediction id, as monitoring does."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.records: list[prediction_pb2.PredictionRecords] = []
        self.ids: dict[str, int] = {}
        """How often each prediction came."""
        self.refuse: Callable[[prediction_pb2.PredictionRecords], bool] | None = None

    async def IngestPredictions(
        self, request: ingest_service_pb2.IngestPredictionsRequest, context: Context
    ) -> ingest_service_pb2.IngestPredictionsResponse:
        """Store records."""
        await self.behaviour.act(len(request.records), context)
        if self.refuse is not None and any(map(self.refuse, request.records)):
            raise errors.invalid("records", "?", "must be well formed")
        stored = duplicates = 0
        for each in request.records:
            self.records.append(each)
            for found in predictions_of(each)["prediction_id"].to_list():
                duplicates += found in self.ids
                stored += found not in self.ids
                self.ids[found] = self.ids.get(found, 0) + 1
        return ingest_service_pb2.IngestPredictionsResponse(stored=stored, duplicates=duplicates)

    def row(self, prediction_id: str) -> dict[str, Any]:
        """Returns the row of a prediction, with its inputs and outputs."""
        for each in self.records:
            predictions = predictions_of(each)
            listed = predictions["prediction_id"].to_list()
            if prediction_id in listed:
                at = listed.index(prediction_id)
                found = predictions.row(at)
                found["record"] = each
                found["inputs"] = columns_proto.from_proto(each.inputs).row(at)
                found["outputs"] = columns_proto.from_proto(each.outputs).row(at)
                found["entities"] = columns_proto.from_proto(each.entities).row(at)
                return found
        raise KeyError(prediction_id)


def predictions_of(record: prediction_pb2.PredictionRecords) -> Columns:
    """Returns the predictions of a record as its readers see them, what they share in each row."""
    found = columns_proto.from_proto(record.predictions, "predictions")
    found = found.with_constants(columns_proto.from_proto(record.common, "common"))
    if "assignment_key" not in found:
        found = found.with_column(found["prediction_id"].rename("assignment_key"))
    absent = [
        Column.from_list(name, [None] * found.rows, dtype)
        for name, dtype in _MAY_BE_ABSENT.items()
        if name not in found
    ]
    return Columns(found.rows, [*found.columns, *absent])


_MAY_BE_ABSENT = {
    **dict.fromkeys(("trace_id", "span_id", "error", "degradations"), DataType.STRING),
    **dict.fromkeys(("features_microseconds", "checks_microseconds"), DataType.INT64),
    "inference_microseconds": DataType.INT64,
}
"""Columns of predictions that are null in all rows where they are not there."""


def _implemented(add_fn: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Returns a registration of the methods alone that a double has."""

    class Filter:
        def __init__(self, server: Any) -> None:
            self._server = server

        def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
            found = {name: each for name, each in handlers.items() if _is_asynchronous(each)}
            self._server.add_registered_method_handlers(service, found)

        def add_generic_rpc_handlers(self, handlers: Any) -> None:
            """Leave out the second registration, which only old servers need."""

    def add(servicer: Any, server: Any) -> None:
        add_fn(servicer, Filter(server))

    return add


def _is_asynchronous(handler: Any) -> bool:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


@dataclass
class Peers:
    """All doubles behind one server."""

    features: FeatureDouble
    inference: InferenceDouble
    registry: RegistryDouble
    validation: ValidationDouble
    ingest: IngestDouble
    server: servers.Server

    @property
    def address(self) -> str:
        """Where they are."""
        return self.server.address


def _made(double: Callable[[], DoubleT]) -> DoubleT:
    """Makes a double; the methods that it lacks are never registered."""
    return double()


async def start_peers(port: int = 0) -> Peers:
    """Start the doubles on a port of loopback; stop their server in the end."""
    made = Peers(
        _made(FeatureDouble),
        _made(InferenceDouble),
        _made(RegistryDouble),
        _made(ValidationDouble),
        _made(IngestDouble),
        servers.Server("peers", servers.ServerOptions(port=port, metrics_port=None)),
    )
    add = made.server.add
    some = _implemented
    name = "setpoint.{}Service".format
    add(
        some(feature_service_pb2_grpc.add_FeatureServiceServicer_to_server),
        made.features,
        name("feature.v1.Feature"),
    )
    add(
        some(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server),
        made.inference,
        name("inference.v1.Inference"),
    )
    add(
        some(registry_service_pb2_grpc.add_RegistryServiceServicer_to_server),
        made.registry,
        name("registry.v1.Registry"),
    )
    add(
        some(validation_service_pb2_grpc.add_ValidationServiceServicer_to_server),
        made.validation,
        name("validation.v1.Validation"),
        watch_methods=frozenset({"WatchRules"}),
    )
    add(
        some(ingest_service_pb2_grpc.add_IngestServiceServicer_to_server),
        made.ingest,
        name("monitoring.v1.Ingest"),
    )
    await made.server.start()
    await made.server.set_ready(True)
    return made


async def start_inference(double: InferenceDouble, port: int = 0) -> servers.Server:
    """Start a replica of inference alone; stop it in the end."""
    server = servers.Server("inference", servers.ServerOptions(port=port, metrics_port=None))
    server.add(
        _implemented(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server),
        double,
        "setpoint.inference.v1.InferenceService",
    )
    await server.start()
    await server.set_ready(True)
    return server


_FLOAT32 = column_pb2.DATA_TYPE_FLOAT32
_FLOAT64 = column_pb2.DATA_TYPE_FLOAT64
_INT64 = column_pb2.DATA_TYPE_INT64
_STRING = column_pb2.DATA_TYPE_STRING
