import asyncio
import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import joblib
import pytest

from setpoint.registry.v1 import model_pb2
from setpoint.registry.v1 import registry_service_pb2 as pb
from setpoint_artifacts import testing as artifact_testing
from setpoint_registry import testing
from setpoint_registry.testing import Registry
from setpoint_rpc import channel
from setpoint_runtime import errors


class Payload:
    """Opening it would leave a trace."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("opened-by-the-registry",))


def joblib_bytes(compress: int) -> bytes:
    target = io.BytesIO()
    joblib.dump({"model": Payload()}, target, compress=compress)
    return target.getvalue()


def torch_bytes() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload()))
    return target.getvalue()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something has become so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


async def refused(
    registry: Registry, parts: Iterator[pb.UploadArtifactRequest] | Any
) -> errors.SetpointError:
    """Upload and return the error; nothing may be stored."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await registry.stub.UploadArtifact(parts)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert registry.stored_files() == []
    return channel.from_rpc_error(caught.value)


async def test_upload_stores_by_digest(registry: Registry) -> None:
    """An ONNX file is stored under its digest, byte for byte, and comes back the same."""
    answer = await registry.stub.UploadArtifact(testing.upload_parts(testing.ONNX))
    digest = hashlib.sha256(testing.ONNX).hexdigest()
    assert (answer.digest, answer.size, answer.replayed) == (digest, len(testing.ONNX), False)
    [path] = registry.stored_files()
    assert path.name == digest
    assert path.read_bytes() == testing.ONNX
    pieces = registry.stub.DownloadArtifact(pb.DownloadArtifactRequest(digest=digest))
    assert b"".join([piece.data async for piece in pieces]) == testing.ONNX


async def test_upload_twice(registry: Registry) -> None:
    """The same bytes again are a replay."""
    await registry.stub.UploadArtifact(testing.upload_parts(testing.ONNX))
    answer = await registry.stub.UploadArtifact(testing.upload_parts(testing.ONNX, piece_bytes=7))
    assert answer.replayed
    assert len(registry.stored_files()) == 1


async def test_upload_many_pieces(registry: Registry) -> None:
    """A large artifact in many pieces is put together in order."""
    data = artifact_testing.linear(weights=[float(i) for i in range(300_000)])
    answer = await registry.stub.UploadArtifact(testing.upload_parts(data, piece_bytes=100_000))
    pieces = registry.stub.DownloadArtifact(pb.DownloadArtifactRequest(digest=answer.digest))
    got = [piece.data async for piece in pieces]
    assert len(got) == 2
    assert b"".join(got) == data


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (pickle.dumps(Payload(), 5), "pickle"),
        (pickle.dumps(Payload(), 0), "pickle"),
        (pickle.dumps(Payload(), 1), "pickle"),
        (joblib_bytes(0), "pickle"),
        (joblib_bytes(3), "pickle"),
        (torch_bytes(), "PyTorch"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    ],
)
async def test_upload_executable(registry: Registry, data: bytes, name: str) -> None:
    """Formats that can execute code are refused by name, unopened, and leave nothing behind."""
    error = await refused(registry, testing.upload_parts(data))
    assert error.reason == errors.Reason.EXECUTABLE_ARTIFACT
    assert name in error.message


async def test_upload_executable_early(registry: Registry) -> None:
    """A pickle is refused from its beginning; its other gigabytes need not arrive."""
    sent = 0

    async def endless() -> AsyncIterator[pb.UploadArtifactRequest]:
        nonlocal sent
        header = pb.ArtifactHeader(
            digest="0" * 64, size=4_000_000, format=model_pb2.ARTIFACT_FORMAT_ONNX
        )
        yield pb.UploadArtifactRequest(header=header)
        yield pb.UploadArtifactRequest(data=pickle.dumps(b"x" * 100_000, 5))
        for _ in range(30):
            await asyncio.sleep(0.5)
            sent += 1
            yield pb.UploadArtifactRequest(data=bytes(100_000))

    error = await refused(registry, endless())
    assert error.reason == errors.Reason.EXECUTABLE_ARTIFACT
    assert sent < 30


async def test_upload_unreadable(registry: Registry) -> None:
    """Bytes that are no ONNX are refused."""
    error = await refused(registry, testing.upload_parts(b"not a model at all"))
    assert error.reason == errors.Reason.INVALID_ARTIFACT


async def test_upload_external_data(registry: Registry) -> None:
    """A model whose weights lie in another file is refused with the location."""
    data = artifact_testing.with_external_data(testing.ONNX, "../../etc/passwd")
    error = await refused(registry, testing.upload_parts(data))
    assert error.reason == errors.Reason.INVALID_ARTIFACT
    assert "../../etc/passwd" in error.message


@pytest.mark.parametrize(
    ("digest", "size"),
    [("0" * 64, None), (None, len(testing.ONNX) + 1), (None, len(testing.ONNX) - 1)],
)
async def test_upload_other_than_announced(
    registry: Registry, digest: str | None, size: int | None
) -> None:
    """Another digest or size than announced is refused."""
    error = await refused(registry, testing.upload_parts(testing.ONNX, digest=digest, size=size))
    assert error.reason == errors.Reason.DIGEST_MISMATCH


async def test_upload_oversize(registry: Registry) -> None:
    """More than the configured size is refused before any data is received."""
    error = await refused(registry, testing.upload_parts(testing.ONNX, size=5_000_000))
    assert error.reason == errors.Reason.TOO_LARGE
    assert error.violations[0].field == "header.size"


@pytest.mark.parametrize("digest", ["", "../../x", "A" * 64, "0" * 63])
async def test_upload_bad_digest(registry: Registry, digest: str) -> None:
    """What is no digest never becomes a path."""
    error = await refused(registry, testing.upload_parts(testing.ONNX, digest=digest))
    assert error.violations[0].field == "header.digest"


async def test_upload_no_header(registry: Registry) -> None:
    """Data without a header is refused, and so is an upload without messages."""
    for parts in ([pb.UploadArtifactRequest(data=b"x")], []):
        error = await refused(registry, iter(parts))
        assert error.violations[0].field == "header"


async def test_upload_two_headers(registry: Registry) -> None:
    """A second header is refused."""
    first = next(testing.upload_parts(testing.ONNX))
    error = await refused(registry, iter([first, first]))
    assert error.violations[0].field == "data"


async def test_upload_unknown_format(registry: Registry) -> None:
    """A format must be chosen."""
    part = next(testing.upload_parts(testing.ONNX))
    part.header.format = model_pb2.ARTIFACT_FORMAT_UNSPECIFIED
    error = await refused(registry, iter([part]))
    assert error.violations[0].field == "header.format"


async def test_upload_cancelled(registry: Registry) -> None:
    """An upload whose caller goes away leaves nothing."""
    started = asyncio.Event()

    async def stalling() -> AsyncIterator[pb.UploadArtifactRequest]:
        for part in list(testing.upload_parts(testing.ONNX, piece_bytes=50))[:3]:
            yield part
        started.set()
        await asyncio.sleep(30)

    call = registry.stub.UploadArtifact(stalling())
    await started.wait()
    await until(lambda: len(registry.stored_files()) == 1)
    call.cancel()
    await until(lambda: not registry.stored_files())


async def test_upload_concurrently(registry: Registry) -> None:
    """Many uploads of the same bytes at once store them once."""
    answers = await asyncio.gather(
        *(registry.stub.UploadArtifact(testing.upload_parts(testing.ONNX)) for _ in range(6))
    )
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(registry.stored_files()) == 1


async def test_upload_too_many(registry: Registry) -> None:
    """Uploads beyond the limit are refused at once, with the time to come back."""
    gate = asyncio.Event()

    async def waiting() -> AsyncIterator[pb.UploadArtifactRequest]:
        parts = list(testing.upload_parts(testing.ONNX))
        yield parts[0]
        await gate.wait()
        for part in parts[1:]:
            yield part

    calls = [registry.stub.UploadArtifact(waiting()) for _ in range(8)]
    # Each has the file that it writes to.
    await until(lambda: len(registry.stored_files()) == 8)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await registry.stub.UploadArtifact(testing.upload_parts(testing.ONNX))
    error = channel.from_rpc_error(caught.value)
    assert error.reason == errors.Reason.OVERLOADED
    assert error.retry_after_seconds == 1.0
    gate.set()
    await asyncio.gather(*calls)


async def test_download_unknown(registry: Registry) -> None:
    """A digest that is not stored is not found."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(
            aiter(registry.stub.DownloadArtifact(pb.DownloadArtifactRequest(digest="0" * 64)))
        )
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert channel.from_rpc_error(caught.value).reason == errors.Reason.ARTIFACT_NOT_FOUND


async def test_download_damaged(registry: Registry) -> None:
    """Damaged bytes are never delivered whole, and a new upload repairs them."""
    await registry.stub.UploadArtifact(testing.upload_parts(testing.ONNX))
    [path] = registry.stored_files()
    damaged = bytearray(testing.ONNX)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    request = pb.DownloadArtifactRequest(digest=path.name)
    got = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for piece in registry.stub.DownloadArtifact(request):
            got.append(piece.data)  # noqa: PERF401 — what came before the error is wanted.
    assert caught.value.code() == grpc.StatusCode.DATA_LOSS
    assert len(b"".join(got)) < len(testing.ONNX)
    await registry.stub.UploadArtifact(testing.upload_parts(testing.ONNX))
    pieces = registry.stub.DownloadArtifact(request)
    assert b"".join([piece.data async for piece in pieces]) == testing.ONNX


def skops_bytes(**members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return target.getvalue()


SKOPS = skops_bytes(schema__json=b'{"__class__": "dict"}')
EXTERNAL = b'{"address": "models.example:8001", "model": "late"}'
OTHERS = {"formats": ("ONNX", "SKOPS", "EXTERNAL_OIP")}
OTHER_ARTIFACTS = [
    (model_pb2.ARTIFACT_FORMAT_SKOPS, SKOPS),
    (model_pb2.ARTIFACT_FORMAT_EXTERNAL_OIP, EXTERNAL),
]


@pytest.mark.parametrize(("format", "data"), OTHER_ARTIFACTS)
async def test_upload_format_not_taken(
    registry: Registry, format: model_pb2.ArtifactFormat.ValueType, data: bytes
) -> None:
    """Formats beside ONNX are refused where nobody enabled them."""
    error = await refused(registry, testing.upload_parts(data, format=format))
    assert error.violations[0].field == "header.format"
    assert "taken here: ONNX" in error.message


@pytest.mark.parametrize("registry", [OTHERS], indirect=True)
@pytest.mark.parametrize(("format", "data"), OTHER_ARTIFACTS)
async def test_upload_format_taken(
    registry: Registry, format: model_pb2.ArtifactFormat.ValueType, data: bytes
) -> None:
    """Where they are enabled they are stored, and a version can be made of them as their format."""
    await registry.stub.UploadArtifact(testing.upload_parts(data, format=format))
    await registry.stub.CreateModel(
        pb.CreateModelRequest(request_id=testing.request_id(), model=testing.model())
    )
    manifest = testing.manifest(data)
    manifest.format = format
    made = await registry.stub.CreateModelVersion(
        pb.CreateModelVersionRequest(
            request_id=testing.request_id(), model="late", manifest=manifest
        )
    )
    assert made.model_version.manifest.format == format


@pytest.mark.parametrize("registry", [OTHERS], indirect=True)
@pytest.mark.parametrize("format", [each for each, _ in OTHER_ARTIFACTS])
@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Payload()),
        torch_bytes(),
        skops_bytes(schema__json=b"[]"),
        skops_bytes(schema__json=b'{"__class__": "dict"}', a=bytes(3_000_000)),
        b'{"address": "unix:/run/socket:1", "model": "late"}',
        b'{"address": "a:1", "model": "late", "command": "id"}',
        b'{"address": "a:1"}',
        b"[" * 4000,
    ],
    ids=["pickle", "torch", "no schema", "bomb", "socket", "unknown key", "no model", "deep"],
)
async def test_upload_other_format_malformed(
    registry: Registry, format: model_pb2.ArtifactFormat.ValueType, data: bytes
) -> None:
    """What only claims to be of an enabled format is refused."""
    error = await refused(registry, testing.upload_parts(data, format=format))
    assert error.reason == errors.Reason.INVALID_ARTIFACT
