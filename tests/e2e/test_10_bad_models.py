"""Story 10: models that nobody made cannot be asked for, and what is no model, or worse, is not taken."""

import hashlib
import pickle
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support import parcels
from tests.support import world as worlds
from tests.support.refusals import refusal

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.inference.v1 import inference_service_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_runtime import ids

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("still_answering")]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING_MODEL = "no-such-model"


async def test_route_refuses_unknown_model(world: worlds.World) -> None:
    """Proves that neither a route nor a version of a model nobody made can be had."""
    route = route_pb2.Route(
        name="to-nowhere",
        model=MISSING_MODEL,
        weights=[route_pb2.VersionWeight(version=1, basis_points=10_000)],
    )
    create = router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=route)
    told = await refusal(world.services.router.CreateRoute(create, timeout=worlds.CALL_SECONDS))
    assert told.code is grpc.StatusCode.NOT_FOUND
    assert told.reason == "MODEL_NOT_FOUND"
    assert MISSING_MODEL in told.text
    version = reference_pb2.ModelVersionReference(model=parcels.MODEL, version=999)
    read = registry_service_pb2.GetModelVersionRequest(model_version=version)
    told = await refusal(world.services.registry.GetModelVersion(read, timeout=worlds.CALL_SECONDS))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND")
    run = inference_service_pb2.PredictRequest(
        model_version=version, inputs=column_pb2.ColumnBatch(rows=1)
    )
    told = await refusal(world.services.inference.Predict(run, timeout=worlds.CALL_SECONDS))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND")


class Bomb:
    """Would create a file if it were ever unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def _upload(data: bytes) -> list[registry_service_pb2.UploadArtifactRequest]:
    header = registry_service_pb2.ArtifactHeader(
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
    )
    return [
        registry_service_pb2.UploadArtifactRequest(header=header),
        registry_service_pb2.UploadArtifactRequest(data=data),
    ]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
async def test_registry_refuses_pickle_by_name(
    world: worlds.World, protocol: int, tmp_path: Path
) -> None:
    """Proves that a pickle given as a model is called one, and is neither stored nor run."""
    trap = tmp_path / "exploded"
    data = pickle.dumps(Bomb(str(trap)), protocol)
    told = await refusal(
        world.services.registry.UploadArtifact(iter(_upload(data)), timeout=worlds.CALL_SECONDS)
    )
    assert (told.code, told.reason) == (INVALID, "EXECUTABLE_ARTIFACT"), told.text
    assert "pickle" in told.text
    assert not trap.exists()
    stored = registry_service_pb2.DownloadArtifactRequest(digest=hashlib.sha256(data).hexdigest())
    call = world.services.registry.DownloadArtifact(stored, timeout=worlds.CALL_SECONDS)
    assert (await refusal(_drained(call))).reason == "ARTIFACT_NOT_FOUND"


async def _drained(call: AsyncIterable[Any]) -> None:
    async for _ in call:
        pass


async def test_registry_refuses_what_is_no_model(world: worlds.World) -> None:
    """Proves that bytes which are no ONNX, and bytes that are not those announced, are refused."""
    upload = world.services.registry.UploadArtifact
    told = await refusal(
        upload(iter(_upload(b"what a lovely model" * 100)), timeout=worlds.CALL_SECONDS)
    )
    assert (told.code, told.reason) == (INVALID, "INVALID_ARTIFACT"), told.text
    [header, _] = _upload(b"announced")
    other = registry_service_pb2.UploadArtifactRequest(data=b"delivered")
    told = await refusal(upload(iter([header, other]), timeout=worlds.CALL_SECONDS))
    assert told.code is INVALID
    assert told.reason in ("DIGEST_MISMATCH", "INVALID_ARTIFACT"), told.text
