"""Stubs of a running stack's services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from setpoint.feature.v1 import feature_service_pb2_grpc
from setpoint.inference.v1 import inference_service_pb2_grpc
from setpoint.monitoring.v1 import ingest_service_pb2_grpc, monitoring_service_pb2_grpc
from setpoint.registry.v1 import registry_service_pb2_grpc
from setpoint.retraining.v1 import retraining_service_pb2_grpc
from setpoint.router.v1 import router_service_pb2_grpc
from setpoint.validation.v1 import validation_service_pb2_grpc
from setpoint_rpc import channel

CALLER = "setpoint-demo"


@dataclass(frozen=True, slots=True)
class Services:
    """One stub for each service that the demo talks to."""

    feature: feature_service_pb2_grpc.FeatureServiceAsyncStub
    inference: inference_service_pb2_grpc.InferenceServiceAsyncStub
    ingest: ingest_service_pb2_grpc.IngestServiceAsyncStub
    monitoring: monitoring_service_pb2_grpc.MonitoringServiceAsyncStub
    registry: registry_service_pb2_grpc.RegistryServiceAsyncStub
    retraining: retraining_service_pb2_grpc.RetrainingServiceAsyncStub
    router: router_service_pb2_grpc.RouterServiceAsyncStub
    validation: validation_service_pb2_grpc.ValidationServiceAsyncStub


@asynccontextmanager
async def connect(addresses: Mapping[str, str]) -> AsyncIterator[Services]:
    """Opens a channel to each service, by the services' names, and closes them again."""
    async with AsyncExitStack() as opened:
        channels = {
            name: await opened.enter_async_context(channel.connect(address, client=CALLER))
            for name, address in addresses.items()
        }
        yield Services(
            feature=feature_service_pb2_grpc.FeatureServiceStub(channels["feature"]),
            inference=inference_service_pb2_grpc.InferenceServiceStub(channels["inference"]),
            ingest=ingest_service_pb2_grpc.IngestServiceStub(channels["monitoring"]),
            monitoring=monitoring_service_pb2_grpc.MonitoringServiceStub(channels["monitoring"]),
            registry=registry_service_pb2_grpc.RegistryServiceStub(channels["registry"]),
            retraining=retraining_service_pb2_grpc.RetrainingServiceStub(channels["retraining"]),
            router=router_service_pb2_grpc.RouterServiceStub(channels["router"]),
            validation=validation_service_pb2_grpc.ValidationServiceStub(channels["validation"]),
        )
