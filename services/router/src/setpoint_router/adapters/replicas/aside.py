"""Calls that nobody waits for: one attempt each, which changes nothing for those that somebody does."""

import grpc
import grpc.aio

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.inference.v1 import inference_service_pb2
from setpoint_columns import proto as columns_proto
from setpoint_router import ports
from setpoint_router.adapters.replicas.fleet import Fleet
from setpoint_router.domain.plan import Plan
from setpoint_rpc import channel, context
from setpoint_runtime import errors


class InferenceAside:
    """The inference service as shadows use it; implements `Inference`.

    A call that fails is not repeated, takes nothing from the budget of repetitions, and is held
    against no replica: a shadow that hangs says nothing of the versions that serve. Its rows count
    as load, so that callers' calls keep away from where shadows are busy.
    """

    def __init__(self, fleet: Fleet) -> None:
        """Ask the replicas of a fleet."""
        self._fleet = fleet

    async def predict(
        self,
        plan: Plan,
        inputs: column_pb2.ColumnBatch,
        timeout_seconds: float,
        traceparent: str | None,
    ) -> ports.Answer:
        """Return the outputs for encoded inputs, as many rows as inputs.

        Raises:
            SetpointError: The version did not answer.
        """
        key = plan.route.content.model, plan.version.version
        replica = self._fleet.placement(key).choose(inputs.rows, self._fleet.options.load_factor)
        request = inference_service_pb2.PredictRequest(
            model_version=reference_pb2.ModelVersionReference(model=key[0], version=key[1]),
            inputs=inputs,
        )
        metadata = None if traceparent is None else ((context.TRACEPARENT_KEY, traceparent),)
        replica.rows += inputs.rows
        try:
            answer = await replica.predict(request, timeout=timeout_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        finally:
            replica.rows -= inputs.rows
        return ports.Answer(columns_proto.from_proto(answer.outputs, "outputs"), replica.name)

    def replicas(self, plan: Plan) -> int:
        """Return 1: shadows make their calls one after the other."""
        del plan
        return 1

    async def load(self, model: str, version: int) -> None:
        """Refuse: a version is made ready by whoever changes a route."""
        raise errors.UnimplementedError(
            errors.Reason.UNIMPLEMENTED, f"version {version} of {model} is not loaded for a shadow"
        )
