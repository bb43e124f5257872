"""The registry and inference, both real, over loopback: from an upload to an answer."""

import pickle
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint_artifacts import testing as artifacts
from setpoint_inference import config as inference_config
from setpoint_inference import testing as inference_testing
from setpoint_inference import wiring as inference_wiring
from setpoint_registry import config as registry_config
from setpoint_registry import testing as registry_testing
from setpoint_registry import wiring as registry_wiring
from setpoint_rpc import channel
from setpoint_runtime import errors
from setpoint_testkit.serving import Serve

RANDOM = np.random.default_rng(3)
# As float32 has them: thresholds lie exactly on training values, and rounding would cross them.
VALUES = RANDOM.normal(size=(500, 2)).astype(np.float32)


@dataclass
class Services:
    """Both services, called through their stubs."""

    registry: "registry_service_pb2_grpc.RegistryServiceAsyncStub"
    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub"
    artifacts: Path
    cache: Path

    async def register(self, data: bytes, manifest: model_pb2.Manifest) -> model_pb2.ModelVersion:
        """Upload an artifact and make a version of it."""
        await self.registry.UploadArtifact(registry_testing.upload_parts(data))
        request = registry_service_pb2.CreateModelVersionRequest(
            request_id=registry_testing.request_id(), model="late", manifest=manifest
        )
        return (await self.registry.CreateModelVersion(request)).model_version

    async def predict(self, version: int) -> Any:
        """Ask a version for all rows."""
        columns = inference_testing.floats({"a": VALUES[:, 0], "b": VALUES[:, 1]})
        request = inference_testing.predict_request("late", version, columns)
        return inference_testing.answered(await self.inference.Predict(request, timeout=20))


@pytest.fixture
async def services(serve: Serve, database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            serve(
                registry_wiring.build,
                registry_config.RegistrySettings(
                    database_url=database_url, artifact_url=str(tmp_path / "artifacts")
                ),
            )
        )
        inference = await stack.enter_async_context(
            serve(
                inference_wiring.build,
                inference_config.InferenceSettings(
                    registry_address=registry.address, cache_directory=str(tmp_path / "cache")
                ),
            )
        )
        to_registry = await stack.enter_async_context(
            channel.connect(registry.address, client="test")
        )
        to_inference = await stack.enter_async_context(
            channel.connect(inference.address, client="test")
        )
        made = Services(
            registry_service_pb2_grpc.RegistryServiceStub(to_registry),
            inference_service_pb2_grpc.InferenceServiceStub(to_inference),
            tmp_path / "artifacts",
            tmp_path / "cache",
        )
        model = registry_testing.model("late")
        await made.registry.CreateModel(
            registry_service_pb2.CreateModelRequest(
                request_id=registry_testing.request_id(), model=model
            )
        )
        yield made


async def test_upload_to_answer(services: Services) -> None:
    """A trained classifier goes through the registry and answers as scikit-learn does."""
    fitted = HistGradientBoostingClassifier(max_iter=20).fit(VALUES, VALUES[:, 0] > VALUES[:, 1])
    data = artifacts.from_sklearn(fitted, [("X*2", "float")])
    manifest = registry_testing.manifest(data)
    del manifest.outputs[:]
    manifest.outputs.add(
        name="probabilities", dtype=column_pb2.DATA_TYPE_FLOAT32, columns=["no", "yes"]
    )
    manifest.score_column = "yes"
    version = await services.register(data, manifest)
    got = await services.predict(version.version)
    expected = fitted.predict_proba(VALUES)
    np.testing.assert_allclose(got["yes"].values, expected[:, 1], atol=1e-5)


async def test_pickle_replaced_at_rest(services: Services) -> None:
    """A pickle put in the place of an artifact, at either side, is never opened."""
    version = await services.register(registry_testing.ONNX, registry_testing.manifest())
    [stored] = [path for path in services.artifacts.rglob("*") if path.is_file()]
    good = stored.read_bytes()
    stored.write_bytes(pickle.dumps({"evil": True}))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.predict(version.version)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert channel.from_rpc_error(caught.value).reason == errors.Reason.DIGEST_MISMATCH

    stored.write_bytes(good)
    reference = reference_pb2.ModelVersionReference(model="late", version=version.version)
    request = inference_service_pb2.LoadModelRequest(model_version=reference)
    loaded = (await services.inference.LoadModel(request, timeout=20)).model
    assert loaded.state == inference_service_pb2.LOAD_STATE_READY
    assert (await services.predict(version.version)).rows == 500


async def test_rejected_version(services: Services) -> None:
    """A version that a person rejected is not loaded."""
    version = await services.register(registry_testing.ONNX, registry_testing.manifest())
    await services.registry.DecideApproval(
        registry_service_pb2.DecideApprovalRequest(
            request_id=registry_testing.request_id(),
            model_version=reference_pb2.ModelVersionReference(
                model="late", version=version.version
            ),
            manifest_digest=version.manifest_digest,
            decision=model_pb2.APPROVAL_STATE_REJECTED,
            approver="alice",
        )
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.predict(version.version)
    assert channel.from_rpc_error(caught.value).reason == errors.Reason.NOT_APPROVED


async def test_unknown_model(services: Services) -> None:
    """A version that does not exist is not found, all the way through."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.predict(99)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert channel.from_rpc_error(caught.value).reason == errors.Reason.MODEL_VERSION_NOT_FOUND
