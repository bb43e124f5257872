"""Router, monitoring, validation and inference as retraining needs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import grpc
import numpy as np
import numpy.typing as npt

from setpoint.common.v1 import reference_pb2
from setpoint.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from setpoint.monitoring.v1 import monitoring_service_pb2, monitoring_service_pb2_grpc
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint.validation.v1 import validation_service_pb2, validation_service_pb2_grpc
from setpoint_columns import Columns, proto
from setpoint_retraining import ports
from setpoint_retraining.domain.run import Run
from setpoint_rpc import channel
from setpoint_runtime import errors

ACTOR = "retraining"
TIMEOUT_SECONDS = 60.0
PIECE_ROWS = 5_000

_VERDICTS = {
    monitoring_service_pb2.VERDICT_PASS: ports.Verdict.PASS,
    monitoring_service_pb2.VERDICT_FAIL: ports.Verdict.FAIL,
}


class RoutesClient:
    """Implements `ports.Routes`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to the router."""
        self._stub = router_service_pb2_grpc.RouterServiceStub(opened)

    async def current(self, route: str) -> ports.RouteState | None:
        """Return a route as it is now."""
        found = await self._read(route)
        if found is None:
            return None
        weights = {each.version: each.basis_points for each in found.weights}
        if not found.HasField("layer"):
            return ports.RouteState(found.revision, weights)
        taking_part = found.layer.end_slot - found.layer.first_slot
        return ports.RouteState(found.revision, weights, taking_part)

    async def set_weights(
        self, run: Run, action: str, weights: Mapping[int, int], valid_from: int, reason: str
    ) -> None:
        """Create or change the plan's route, once per action of the run."""
        route = await self._read(run.plan.route)
        is_new = route is None
        if route is None:
            route = route_pb2.Route(name=run.plan.route, model=run.plan.model)
        del route.weights[:]
        route.weights.extend(
            route_pb2.VersionWeight(version=version, basis_points=share)
            for version, share in sorted(weights.items())
        )
        if route.HasField("layer") and len(weights) == 1:
            # Who gets everything gets the keys that take no part, too.
            (route.layer.baseline_version,) = weights
        route.valid_from = valid_from
        route.actor = ACTOR
        route.reason = reason
        request_id = run.request_id(f"route-{action}")
        try:
            if is_new:
                await self._stub.CreateRoute(
                    router_service_pb2.CreateRouteRequest(request_id=request_id, route=route),
                    timeout=TIMEOUT_SECONDS,
                )
            else:
                await self._stub.UpdateRoute(
                    router_service_pb2.UpdateRouteRequest(request_id=request_id, route=route),
                    timeout=TIMEOUT_SECONDS,
                )
        except grpc.aio.AioRpcError as error:
            told = channel.from_rpc_error(error)
            # Tried before a crash, when the route was another: the action itself was done.
            if told.reason is not errors.Reason.REQUEST_ID_REUSED:
                raise told from error

    async def _read(self, route: str) -> route_pb2.Route | None:
        try:
            response = await self._stub.GetRoute(router_service_pb2.GetRouteRequest(name=route))
        except grpc.aio.AioRpcError as error:
            told = channel.from_rpc_error(error)
            if isinstance(told, errors.NotFoundError):
                return None
            raise told from error
        return response.route


class MonitoringClient:
    """Implements `ports.Monitoring`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to monitoring."""
        self._stub = monitoring_service_pb2_grpc.MonitoringServiceStub(opened)

    async def compare(
        self,
        run: Run,
        candidate: int,
        baseline: int,
        since: int,
        until: int,
        basis_points: int,
        minimum_predictions: int,
    ) -> ports.GateAnswer:
        """Compare two versions on the plan's route."""
        model = run.plan.model
        request = monitoring_service_pb2.CompareVersionsRequest(
            route=run.plan.route,
            candidate=reference_pb2.ModelVersionReference(model=model, version=candidate),
            baseline=reference_pb2.ModelVersionReference(model=model, version=baseline),
            range=reference_pb2.TimeRange(start_time=since, end_time=until),
            candidate_basis_points=basis_points,
            minimum_predictions=minimum_predictions,
        )
        try:
            answer = await self._stub.CompareVersions(request, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        verdict = _VERDICTS.get(answer.verdict, ports.Verdict.INCONCLUSIVE)
        return ports.GateAnswer(verdict, answer.explanation)


class ValidationClient:
    """Implements `ports.Validation`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to validation."""
        self._stub = validation_service_pb2_grpc.ValidationServiceStub(opened)

    async def validate(self, run: Run, suite: str, table: Columns) -> tuple[bool, str]:
        """Judge a table by a suite; say whether it passed, and what failed."""
        call = self._stub.ValidateBatch(_table(run, suite, table), timeout=TIMEOUT_SECONDS)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        judged = response.run
        failed = [each for each in judged.results if not each.success]
        told = "; ".join(f"{each.rule_id}: {each.message}" for each in failed)
        good = len(judged.results) - len(failed)
        summary = f"suite {suite}: {good} of {len(judged.results)} rules hold on {judged.rows} rows"
        return judged.passed, f"{summary}; {told}" if told else summary


async def _table(
    run: Run, suite: str, table: Columns
) -> AsyncIterator[validation_service_pb2.ValidateBatchRequest]:
    for start in range(0, max(1, table.rows), PIECE_ROWS):
        piece = table.slice(start, min(start + PIECE_ROWS, table.rows))
        request = validation_service_pb2.ValidateBatchRequest(rows=proto.to_proto(piece))
        if start == 0:
            request.request_id = run.request_id("validate")
            request.suite = suite
            request.source = f"snapshot of run {run.run_id}"
        yield request


class InferenceClient:
    """Implements `ports.Inference`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to inference."""
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(opened)

    async def scores(
        self, model: str, champion: ports.Champion, inputs: Columns
    ) -> npt.NDArray[np.float64]:
        """Return a version's score for each row."""
        reference = reference_pb2.ModelVersionReference(model=model, version=champion.version)
        scores = []
        for start in range(0, inputs.rows, PIECE_ROWS):
            piece = inputs.slice(start, min(start + PIECE_ROWS, inputs.rows))
            request = inference_service_pb2.PredictRequest(
                model_version=reference, inputs=proto.to_proto(piece)
            )
            try:
                response = await self._stub.Predict(request, timeout=TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise channel.from_rpc_error(error) from error
            outputs = proto.from_proto(response.outputs)
            scores.append(outputs[champion.score_column].floats())
        return np.concatenate(scores) if scores else np.empty(0)
