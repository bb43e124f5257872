"""The generated stubs of every service, made when they are first needed."""

# The names of the async stubs exist in the type declarations alone.
from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import grpc
import grpc.aio

from setpoint.batch.v1 import batch_service_pb2_grpc
from setpoint.feature.v1 import (
    audit_service_pb2_grpc,
    definition_service_pb2_grpc,
    feature_service_pb2_grpc,
    snapshot_service_pb2_grpc,
)
from setpoint.inference.v1 import inference_service_pb2_grpc
from setpoint.monitoring.v1 import ingest_service_pb2_grpc, monitoring_service_pb2_grpc
from setpoint.registry.v1 import registry_service_pb2_grpc
from setpoint.retraining.v1 import retraining_service_pb2_grpc
from setpoint.router.v1 import router_service_pb2_grpc
from setpoint.validation.v1 import validation_service_pb2_grpc


class Stubs:
    """The generated stubs of every service, each on the client's own channel to it.

    Calls through them get no deadline and no retries of the client's; give `timeout=` to each, and turn
    failures into typed errors with `typed_error`.
    """

    def __init__(self, channel: Callable[[str], grpc.Channel]) -> None:
        """Uses `channel` to get the channel to a service by its name, when it is first needed."""
        self._channel = channel

    @cached_property
    def router(self) -> router_service_pb2_grpc.RouterServiceStub:
        """Predictions and routes."""
        return router_service_pb2_grpc.RouterServiceStub(self._channel("router"))

    @cached_property
    def inference(self) -> inference_service_pb2_grpc.InferenceServiceStub:
        """Models as they run."""
        return inference_service_pb2_grpc.InferenceServiceStub(self._channel("inference"))

    @cached_property
    def feature(self) -> feature_service_pb2_grpc.FeatureServiceStub:
        """Entities, views, feature sets and values."""
        return feature_service_pb2_grpc.FeatureServiceStub(self._channel("feature"))

    @cached_property
    def audit(self) -> audit_service_pb2_grpc.AuditServiceStub:
        """Explanations and proofs, at the feature service."""
        return audit_service_pb2_grpc.AuditServiceStub(self._channel("feature"))

    @cached_property
    def definition(self) -> definition_service_pb2_grpc.DefinitionServiceStub:
        """Plans and applies definitions, at the feature service."""
        return definition_service_pb2_grpc.DefinitionServiceStub(self._channel("feature"))

    @cached_property
    def snapshots(self) -> snapshot_service_pb2_grpc.SnapshotServiceStub:
        """Training sets that are kept, at the feature service."""
        return snapshot_service_pb2_grpc.SnapshotServiceStub(self._channel("feature"))

    @cached_property
    def validation(self) -> validation_service_pb2_grpc.ValidationServiceStub:
        """Suites and runs."""
        return validation_service_pb2_grpc.ValidationServiceStub(self._channel("validation"))

    @cached_property
    def monitoring(self) -> monitoring_service_pb2_grpc.MonitoringServiceStub:
        """Stories, quality, drift and alerts."""
        return monitoring_service_pb2_grpc.MonitoringServiceStub(self._channel("monitoring"))

    @cached_property
    def ingest(self) -> ingest_service_pb2_grpc.IngestServiceStub:
        """Records and outcomes, at the monitoring service."""
        return ingest_service_pb2_grpc.IngestServiceStub(self._channel("monitoring"))

    @cached_property
    def retraining(self) -> retraining_service_pb2_grpc.RetrainingServiceStub:
        """Policies and runs."""
        return retraining_service_pb2_grpc.RetrainingServiceStub(self._channel("retraining"))

    @cached_property
    def batch(self) -> batch_service_pb2_grpc.BatchServiceStub:
        """Batch predictions."""
        return batch_service_pb2_grpc.BatchServiceStub(self._channel("batch"))

    @cached_property
    def registry(self) -> registry_service_pb2_grpc.RegistryServiceStub:
        """Models, versions, aliases and approvals."""
        return registry_service_pb2_grpc.RegistryServiceStub(self._channel("registry"))


class AsyncStubs:
    """The generated stubs of every service, their methods being awaited.

    Calls through them get no deadline and no retries of the client's; give `timeout=` to each, and turn
    failures into typed errors with `typed_error`.
    """

    def __init__(self, channel: Callable[[str], grpc.aio.Channel]) -> None:
        """Uses `channel` to get the channel to a service by its name, when it is first needed."""
        self._channel = channel

    @cached_property
    def router(self) -> router_service_pb2_grpc.RouterServiceAsyncStub:
        """Predictions and routes."""
        return router_service_pb2_grpc.RouterServiceStub(self._channel("router"))

    @cached_property
    def inference(self) -> inference_service_pb2_grpc.InferenceServiceAsyncStub:
        """Models as they run."""
        return inference_service_pb2_grpc.InferenceServiceStub(self._channel("inference"))

    @cached_property
    def feature(self) -> feature_service_pb2_grpc.FeatureServiceAsyncStub:
        """Entities, views, feature sets and values."""
        return feature_service_pb2_grpc.FeatureServiceStub(self._channel("feature"))

    @cached_property
    def audit(self) -> audit_service_pb2_grpc.AuditServiceAsyncStub:
        """Explanations and proofs, at the feature service."""
        return audit_service_pb2_grpc.AuditServiceStub(self._channel("feature"))

    @cached_property
    def definition(self) -> definition_service_pb2_grpc.DefinitionServiceAsyncStub:
        """Plans and applies definitions, at the feature service."""
        return definition_service_pb2_grpc.DefinitionServiceStub(self._channel("feature"))

    @cached_property
    def snapshots(self) -> snapshot_service_pb2_grpc.SnapshotServiceAsyncStub:
        """Training sets that are kept, at the feature service."""
        return snapshot_service_pb2_grpc.SnapshotServiceStub(self._channel("feature"))

    @cached_property
    def validation(self) -> validation_service_pb2_grpc.ValidationServiceAsyncStub:
        """Suites and runs."""
        return validation_service_pb2_grpc.ValidationServiceStub(self._channel("validation"))

    @cached_property
    def monitoring(self) -> monitoring_service_pb2_grpc.MonitoringServiceAsyncStub:
        """Stories, quality, drift and alerts."""
        return monitoring_service_pb2_grpc.MonitoringServiceStub(self._channel("monitoring"))

    @cached_property
    def ingest(self) -> ingest_service_pb2_grpc.IngestServiceAsyncStub:
        """Records and outcomes, at the monitoring service."""
        return ingest_service_pb2_grpc.IngestServiceStub(self._channel("monitoring"))

    @cached_property
    def retraining(self) -> retraining_service_pb2_grpc.RetrainingServiceAsyncStub:
        """Policies and runs."""
        return retraining_service_pb2_grpc.RetrainingServiceStub(self._channel("retraining"))

    @cached_property
    def batch(self) -> batch_service_pb2_grpc.BatchServiceAsyncStub:
        """Batch predictions."""
        return batch_service_pb2_grpc.BatchServiceStub(self._channel("batch"))

    @cached_property
    def registry(self) -> registry_service_pb2_grpc.RegistryServiceAsyncStub:
        """Models, versions, aliases and approvals."""
        return registry_service_pb2_grpc.RegistryServiceStub(self._channel("registry"))
