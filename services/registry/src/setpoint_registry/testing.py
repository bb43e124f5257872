"""Requests for tests of the registry and of those who use it."""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2_grpc
from setpoint.registry.v1 import registry_service_pb2 as pb
from setpoint_artifacts import testing
from setpoint_runtime import clock as clocks

ONNX = testing.linear()
"""`score = a + 2 b + 0.5`."""


def request_id() -> str:
    """Return a new request id."""
    return str(uuid.uuid4())


def sha256(data: bytes) -> str:
    """Return a digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def upload_parts(
    data: bytes,
    *,
    digest: str | None = None,
    size: int | None = None,
    piece_bytes: int = 65_536,
    format: model_pb2.ArtifactFormat.ValueType = model_pb2.ARTIFACT_FORMAT_ONNX,
) -> Iterator[pb.UploadArtifactRequest]:
    """Yield the messages of an upload, with the announced digest and size if they shall differ."""
    header = pb.ArtifactHeader(
        digest=sha256(data) if digest is None else digest,
        size=len(data) if size is None else size,
        format=format,
    )
    yield pb.UploadArtifactRequest(header=header)
    for start in range(0, len(data), piece_bytes):
        yield pb.UploadArtifactRequest(data=data[start : start + piece_bytes])


def model(name: str = "late") -> model_pb2.Model:
    """Return a model."""
    return model_pb2.Model(
        name=name, task=model_pb2.TASK_REGRESSION, description="How late?", owner="team"
    )


def manifest(data: bytes = ONNX) -> model_pb2.Manifest:
    """Return the manifest of `ONNX`."""
    return model_pb2.Manifest(
        artifact_digest=sha256(data),
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
        inputs=[
            model_pb2.TensorSpec(name="X", dtype=column_pb2.DATA_TYPE_FLOAT32, columns=["a", "b"])
        ],
        outputs=[
            model_pb2.TensorSpec(
                name="score", dtype=column_pb2.DATA_TYPE_FLOAT32, columns=["score"]
            )
        ],
        feature_set=reference_pb2.FeatureSetReference(name="flights", version="abc"),
        snapshot=model_pb2.TrainingSnapshot(digest=sha256(b"rows"), train_rows=100),
        metrics=[model_pb2.Metric(name="rmse", value=1.5, rows=50)],
        reference_profiles=[
            model_pb2.FeatureProfile(column="a", edges=[0.0, 1.0], counts=[1, 2, 3, 0, 0]),
            model_pb2.FeatureProfile(
                column="carrier", categorical=True, levels=["AA"], counts=[1, 0, 0, 0, 0]
            ),
        ],
        environment={"seed": "1", "numpy": "2.4"},
        score_column="score",
    )


@dataclass
class Registry:
    """A served registry and what a test needs to call and inspect it."""

    stub: "registry_service_pb2_grpc.RegistryServiceAsyncStub"
    clock: clocks.ManualClock
    folder: Path
    database_url: str
    address: str

    async def with_model(self, name: str = "late", data: bytes = ONNX) -> None:
        """Create a model and upload an artifact."""
        await self.stub.CreateModel(
            pb.CreateModelRequest(request_id=request_id(), model=model(name))
        )
        await self.stub.UploadArtifact(upload_parts(data))

    async def with_version(
        self, name: str = "late", described: model_pb2.Manifest | None = None
    ) -> model_pb2.ModelVersion:
        """Create one more version of a model."""
        request = pb.CreateModelVersionRequest(
            request_id=request_id(), model=name, manifest=described or manifest()
        )
        return (await self.stub.CreateModelVersion(request)).model_version

    async def decide(
        self,
        version: model_pb2.ModelVersion,
        decision: model_pb2.ApprovalState.ValueType = model_pb2.APPROVAL_STATE_APPROVED,
        digest: str | None = None,
        request_id: str | None = None,
    ) -> pb.DecideApprovalResponse:
        """Decide about a version."""
        request = pb.DecideApprovalRequest(
            request_id=request_id or str(uuid.uuid4()),
            model_version=reference_pb2.ModelVersionReference(
                model=version.model, version=version.version
            ),
            manifest_digest=version.manifest_digest if digest is None else digest,
            decision=decision,
            approver="alice",
            comment="good",
        )
        return await self.stub.DecideApproval(request)

    def stored_files(self) -> list[Path]:
        """List every file of the artifact folder."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())
