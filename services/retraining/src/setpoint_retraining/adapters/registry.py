"""The registry as retraining needs it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint_columns import Columns, DataType
from setpoint_retraining import ports
from setpoint_retraining.domain.run import Run
from setpoint_retraining.training.encoding import NUMBERS, PROBABILITIES, TEXTS
from setpoint_rpc import channel
from setpoint_runtime import errors

PIECE_BYTES = 512 * 1024
TIMEOUT_SECONDS = 60.0
ACTOR = "retraining"
MAX_SAMPLE_BYTES = 256 * 1024
"""As much of a manifest, which has an end, may be recorded rows; wide models record fewer."""
SAMPLE_TOLERANCE = 1e-5
"""Greatest difference between a recorded probability and the one of whoever loads the version: what
another processor's order of additions makes."""


class RegistryClient:
    """Implements `ports.Registry`."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        """Take a channel to the registry."""
        self._stub = registry_service_pb2_grpc.RegistryServiceStub(opened)

    async def champion(self, model: str) -> ports.Champion | None:
        """Return the version that the alias champion points at."""
        try:
            alias = await self._stub.GetAlias(
                registry_service_pb2.GetAliasRequest(model=model, alias="champion")
            )
            found = await self._stub.GetModelVersion(
                registry_service_pb2.GetModelVersionRequest(
                    model_version=reference_pb2.ModelVersionReference(
                        model=model, version=alias.alias.version
                    )
                )
            )
        except grpc.aio.AioRpcError as error:
            told = channel.from_rpc_error(error)
            if isinstance(told, errors.NotFoundError):
                return None
            raise told from error
        manifest = found.model_version.manifest
        return ports.Champion(
            version=alias.alias.version,
            feature_set=ports.FeatureSetKey(
                manifest.feature_set.name, manifest.feature_set.version
            ),
            inputs=tuple(column for tensor in manifest.inputs for column in tensor.columns),
            score_column=manifest.score_column,
            threshold=manifest.decision_threshold,
        )

    async def register(self, run: Run, package: ports.Package, artifact: Path) -> tuple[int, str]:
        """Store artifact and version, once per run; return version and manifest digest."""
        data = await asyncio.to_thread(artifact.read_bytes)
        digest = hashlib.sha256(data).hexdigest()
        try:
            await self._create_model(run)
            await self._stub.UploadArtifact(_pieces(data, digest), timeout=TIMEOUT_SECONDS)
            created = await self._stub.CreateModelVersion(
                registry_service_pb2.CreateModelVersionRequest(
                    request_id=run.request_id("create-version"),
                    model=run.plan.model,
                    manifest=_manifest(run, package, digest),
                ),
                timeout=TIMEOUT_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error
        return created.model_version.version, created.model_version.manifest_digest

    async def decide(
        self, run: Run, approve: bool, digest: str, approver: str, comment: str
    ) -> None:
        """Store the decision about a run's version."""
        decision = (
            model_pb2.APPROVAL_STATE_APPROVED if approve else model_pb2.APPROVAL_STATE_REJECTED
        )
        request = registry_service_pb2.DecideApprovalRequest(
            request_id=run.request_id("approve" if approve else "reject"),
            model_version=_version(run),
            manifest_digest=digest,
            decision=decision,
            approver=approver,
            comment=comment,
        )
        try:
            await self._stub.DecideApproval(request)
        except grpc.aio.AioRpcError as error:
            raise channel.from_rpc_error(error) from error

    async def promote(self, run: Run, alias: str, valid_from: int, reason: str) -> None:
        """Point an alias at a run's version."""
        request = registry_service_pb2.SetAliasRequest(
            request_id=run.request_id(f"alias-{alias}"),
            model=run.plan.model,
            alias=alias,
            version=run.version or 0,
            valid_from=valid_from,
            actor=ACTOR,
            reason=reason,
        )
        try:
            await self._stub.SetAlias(request)
        except grpc.aio.AioRpcError as error:
            told = channel.from_rpc_error(error)
            # Tried before a crash, for another time: the alias points at the version.
            if told.reason is not errors.Reason.REQUEST_ID_REUSED:
                raise told from error

    async def _create_model(self, run: Run) -> None:
        model = model_pb2.Model(
            name=run.plan.model, task=model_pb2.TASK_BINARY_CLASSIFICATION, owner=ACTOR
        )
        request = registry_service_pb2.CreateModelRequest(
            request_id=run.request_id("create-model"), model=model
        )
        try:
            await self._stub.CreateModel(request)
        except grpc.aio.AioRpcError as error:
            told = channel.from_rpc_error(error)
            if not isinstance(told, errors.AlreadyExistsError):
                raise told from error


async def _pieces(
    data: bytes, digest: str
) -> AsyncIterator[registry_service_pb2.UploadArtifactRequest]:
    header = registry_service_pb2.ArtifactHeader(
        digest=digest, size=len(data), format=model_pb2.ARTIFACT_FORMAT_ONNX
    )
    yield registry_service_pb2.UploadArtifactRequest(header=header)
    for start in range(0, len(data), PIECE_BYTES):
        yield registry_service_pb2.UploadArtifactRequest(data=data[start : start + PIECE_BYTES])


def _version(run: Run) -> reference_pb2.ModelVersionReference:
    return reference_pb2.ModelVersionReference(model=run.plan.model, version=run.version or 0)


def _manifest(run: Run, package: ports.Package, digest: str) -> model_pb2.Manifest:
    snapshot, parity = package.snapshot, package.parity
    parents = []
    if package.parent is not None:
        parents = [
            reference_pb2.ModelVersionReference(model=run.plan.model, version=package.parent)
        ]
    return model_pb2.Manifest(
        samples=_samples(package),
        artifact_digest=digest,
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
        inputs=_inputs(package),
        outputs=[
            model_pb2.TensorSpec(
                name=PROBABILITIES,
                dtype=column_pb2.DATA_TYPE_FLOAT32,
                columns=[f"not_{package.score_column}", package.score_column],
            )
        ],
        feature_set=reference_pb2.FeatureSetReference(
            name=package.feature_set.name, version=package.feature_set.version
        ),
        snapshot=model_pb2.TrainingSnapshot(
            digest=snapshot["digest"],
            known_at_time=snapshot["known_at"],
            range=reference_pb2.TimeRange(
                start_time=snapshot["start_time"], end_time=snapshot["end_time"]
            ),
            train_rows=snapshot["train_rows"],
            test_rows=snapshot["test_rows"],
            unlabelled_rows=snapshot["unlabelled_rows"],
            # Runs from before the feature service kept snapshots have none.
            feature_snapshot_id=snapshot.get("feature_snapshot_id", ""),
        ),
        code_version=package.code_version,
        metrics=[
            model_pb2.Metric(name=name, value=value, rows=package.metric_rows)
            for name, value in package.metrics.items()
        ],
        reference_profiles=[model_pb2.FeatureProfile(**each) for each in package.profiles],
        parents=parents,
        decision_threshold=package.threshold,
        parity=model_pb2.Parity(
            rows=parity["rows"],
            max_difference=parity["max_difference"],
            decision_flips=parity["decision_flips"],
        ),
        environment=package.environment,
        score_column=package.score_column,
    )


def _inputs(package: ports.Package) -> list[model_pb2.TensorSpec]:
    tensors = (
        (NUMBERS, column_pb2.DATA_TYPE_FLOAT32, package.numbers),
        (TEXTS, column_pb2.DATA_TYPE_STRING, package.texts),
    )
    return [
        model_pb2.TensorSpec(name=name, dtype=dtype, columns=columns)
        for name, dtype, columns in tensors
        if columns
    ]


def _samples(package: ports.Package) -> model_pb2.Samples | None:
    recorded = package.samples
    if not recorded:
        return None
    numbers = {name: (DataType.FLOAT64, each) for name, each in recorded["numbers"].items()}
    texts = {name: (DataType.STRING, each) for name, each in recorded["texts"].items()}
    inputs = Columns.from_dict({**numbers, **texts})
    scores = {package.score_column: (DataType.FLOAT32, recorded["scores"])}
    outputs = Columns.from_dict(scores)
    rows = inputs.rows
    while rows:
        message = model_pb2.Samples(
            inputs=column_messages.to_proto(inputs.slice(0, rows)),
            outputs=column_messages.to_proto(outputs.slice(0, rows)),
            absolute_tolerance=SAMPLE_TOLERANCE,
        )
        if message.ByteSize() <= MAX_SAMPLE_BYTES:
            return message
        rows //= 2
    return None
