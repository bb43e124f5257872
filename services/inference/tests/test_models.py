import asyncio
import contextlib
import itertools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
from grpc_health.v1 import (  # type: ignore[import-untyped]  # no annotations
    health_pb2,
    health_pb2_grpc,
)
from onnx import TensorProto, helper

import setpoint_columns.proto as column_messages
from setpoint.inference.v1 import inference_service_pb2 as pb
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import testing as artifacts
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_inference import wiring
from setpoint_inference.adapters import memory
from setpoint_inference.testing import FakeRegistry, Inference, floats, predict_request
from setpoint_rpc import channel
from setpoint_runtime import errors

X = ("X", DataType.FLOAT32, ("a", "b"))
SCORE = ("score", DataType.FLOAT32, ("score",))
ROW = floats({"a": [1.0], "b": [2.0]})


def add_linear(
    registry: FakeRegistry, version: int = 1, bias: float = 0.5
) -> model_pb2.ModelVersion:
    return registry.add("linear", version, artifacts.linear(bias=bias), [X], [SCORE])


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something has become so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


async def refused(call: Any) -> errors.SetpointError:
    """Await a call that fails with FAILED_PRECONDITION; return its typed error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    return channel.from_rpc_error(caught.value)


def cache_file(tmp_path: Path, version: model_pb2.ModelVersion) -> Path:
    return tmp_path / "cache" / "artifacts" / version.manifest.artifact_digest


class Payload:
    """Opening it would leave a trace."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("opened-by-inference",))


# What is refused


async def test_load_pickle(inference: Inference) -> None:
    """A pickle that a registry hands out is refused by name, and not opened."""
    inference.registry.add("evil", 1, pickle.dumps(Payload()), [X], [SCORE])
    for call in (
        inference.load("evil", 1),
        inference.stub.Predict(predict_request("evil", 1, ROW), timeout=5),
    ):
        error = await refused(call)
        assert error.reason == errors.Reason.EXECUTABLE_ARTIFACT
        assert "pickle" in error.message
    assert not Path("opened-by-inference").exists()


async def test_load_external_data(inference: Inference) -> None:
    """Weights in another file are refused although the digest is right."""
    data = artifacts.with_external_data(artifacts.linear(), "../../etc/passwd")
    inference.registry.add("evil", 1, data, [X], [SCORE])
    error = await refused(inference.load("evil", 1))
    assert error.reason == errors.Reason.INVALID_ARTIFACT
    assert "external data" in error.message


async def test_load_wrong_digest(inference: Inference, tmp_path: Path) -> None:
    """Bytes other than the digest's are refused, and not kept."""
    version = add_linear(inference.registry)
    digest = version.manifest.artifact_digest
    good = inference.registry.artifacts[digest]
    inference.registry.artifacts[digest] = good[:-1] + bytes([good[-1] ^ 1])
    error = await refused(inference.load("linear", 1))
    assert error.reason == errors.Reason.DIGEST_MISMATCH
    assert not cache_file(tmp_path, version).exists()


@pytest.mark.parametrize("change", [-1, 1, 10_000_000])
async def test_load_wrong_size(inference: Inference, change: int) -> None:
    """More or fewer bytes than the manifest says are refused."""
    version = add_linear(inference.registry)
    version.manifest.artifact_size += change
    error = await refused(inference.load("linear", 1))
    assert error.reason == errors.Reason.DIGEST_MISMATCH


async def test_load_endless_download(inference: Inference) -> None:
    """A registry that sends without end is not read to its end."""
    version = add_linear(inference.registry)
    inference.registry.artifacts[version.manifest.artifact_digest] = bytes(50_000_000)
    error = await refused(inference.load("linear", 1))
    assert error.reason == errors.Reason.DIGEST_MISMATCH


async def test_load_oversize(start: Callable[..., Any]) -> None:
    """An artifact beyond the limit is not even fetched."""
    async with start(max_artifact_bytes=100) as inference:
        add_linear(inference.registry)
        error = await refused(inference.load("linear", 1))
        assert error.reason == errors.Reason.TOO_LARGE
        assert inference.registry.downloads == 0


async def test_load_rejected(inference: Inference) -> None:
    """A rejected version is refused; a pending one is the router's to judge."""
    version = add_linear(inference.registry)
    version.approval_state = model_pb2.APPROVAL_STATE_REJECTED
    error = await refused(inference.load("linear", 1))
    assert error.reason == errors.Reason.NOT_APPROVED
    version.approval_state = model_pb2.APPROVAL_STATE_PENDING
    assert (await inference.load("linear", 1)).state == pb.LOAD_STATE_READY


async def test_load_other_signature(inference: Inference) -> None:
    """A graph other than the manifest says is refused, naming the tensor."""
    specs = [("X", DataType.FLOAT32, ("a", "b", "c"))]
    inference.registry.add("odd", 1, artifacts.linear(), specs, [SCORE])
    error = await refused(inference.load("odd", 1))
    assert error.reason == errors.Reason.SIGNATURE_MISMATCH
    assert "'X'" in error.message


async def test_load_artifact_lost(inference: Inference) -> None:
    """A version whose artifact is gone is refused with that reason."""
    add_linear(inference.registry)
    inference.registry.artifacts.clear()
    error = await refused(inference.load("linear", 1))
    assert error.reason == errors.Reason.ARTIFACT_NOT_FOUND


async def test_load_digest_as_path(inference: Inference) -> None:
    """What is no digest never becomes the name of a file."""
    version = add_linear(inference.registry)
    version.manifest.artifact_digest = "../../../../tmp/x"
    error = await refused(inference.load("linear", 1))
    assert error.reason == errors.Reason.DIGEST_MISMATCH


async def test_load_model_that_cannot_run(inference: Inference) -> None:
    """A model that passes every check but fails to run does not become ready."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["X", "shape"], ["score"]),
        ],
        "broken",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [7, 1])],
    )
    inference.registry.add("broken", 1, artifacts.serialised(graph), [X], [SCORE])
    error = await refused(inference.load("broken", 1))
    assert error.reason == errors.Reason.INVALID_ARTIFACT
    assert "does not run" in error.message
    assert "onnxruntime_src" not in error.message


def record(version: model_pb2.ModelVersion, score: float, tolerance: float = 0.0) -> None:
    """Let a version carry one row with its answer."""
    samples = version.manifest.samples
    samples.inputs.CopyFrom(column_messages.to_proto(ROW))
    score_column = Column.from_list("score", [score], DataType.FLOAT32)
    samples.outputs.CopyFrom(column_messages.to_proto(Columns(1, [score_column])))
    samples.absolute_tolerance = tolerance


async def test_load_recorded_rows(inference: Inference) -> None:
    """A version that answers its recorded rows as recorded serves."""
    record(add_linear(inference.registry), 5.4, tolerance=0.2)
    assert (await inference.load("linear", 1)).state == pb.LOAD_STATE_READY


async def test_load_recorded_rows_differ(inference: Inference) -> None:
    """A version that answers its recorded rows differently is refused; the old one answers on."""
    add_linear(inference.registry, 1)
    record(add_linear(inference.registry, 2, bias=0.75), 5.5, tolerance=0.2)
    await inference.load("linear", 1)
    error = await refused(inference.load("linear", 2))
    assert error.reason == errors.Reason.WARM_UP_MISMATCH
    assert "5.75, not 5.5" in error.message
    old, new = await inference.listed()
    assert (old.state, new.state) == (pb.LOAD_STATE_READY, pb.LOAD_STATE_FAILED)
    assert "WARM_UP_MISMATCH" in new.error
    assert (await inference.predict("linear", 1, ROW)).to_rows() == [{"score": 5.5}]


async def test_load_recorded_rows_unfit(inference: Inference) -> None:
    """Recorded rows that the model cannot take are a mismatch too, not a broken load."""
    version = add_linear(inference.registry)
    record(version, 5.5)
    column = Column.from_list("a", ["text"], DataType.STRING)
    version.manifest.samples.inputs.columns[0].CopyFrom(
        column_messages.to_proto(Columns(1, [column])).columns[0]
    )
    error = await refused(inference.load("linear", 1))
    assert error.reason == errors.Reason.WARM_UP_MISMATCH


# The cache on disk


async def test_load_from_cache(start: Callable[..., Any]) -> None:
    """After a restart the artifact comes from the disk."""
    async with start() as first:
        add_linear(first.registry)
        await first.load("linear", 1)
    async with start() as second:
        assert (await second.predict("linear", 1, ROW)).to_rows() == [{"score": 5.5}]
        assert second.registry.downloads == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "pickle", "empty"])
async def test_load_damaged_cache(start: Callable[..., Any], tmp_path: Path, damage: str) -> None:
    """A damaged or replaced cache file is never loaded; the artifact is fetched again."""
    async with start() as first:
        version = add_linear(first.registry)
        await first.load("linear", 1)
    path = cache_file(tmp_path, version)
    good = path.read_bytes()
    path.write_bytes(
        {
            "flip": good[:-1] + bytes([good[-1] ^ 1]),
            "truncate": good[: len(good) // 2],
            "pickle": pickle.dumps(Payload()),
            "empty": b"",
        }[damage]
    )
    async with start() as second:
        assert (await second.predict("linear", 1, ROW)).to_rows() == [{"score": 5.5}]
        assert second.registry.downloads == 2
    assert path.read_bytes() == good
    assert not Path("opened-by-inference").exists()


async def test_load_without_registry(start: Callable[..., Any]) -> None:
    """A version that was loaded before is served from the disk while the registry is down."""
    async with start() as first:
        add_linear(first.registry)
        await first.load("linear", 1)
        first.registry.is_down = True
    async with start() as second:
        assert (await second.predict("linear", 1, ROW)).to_rows() == [{"score": 5.5}]


async def test_load_unwritable_cache(start: Callable[..., Any], tmp_path: Path) -> None:
    """A cache that cannot be written costs time, not answers."""
    (tmp_path / "cache").write_text("in the way")
    async with start() as inference:
        add_linear(inference.registry)
        assert (await inference.predict("linear", 1, ROW)).rows == 1


# Loads beside each other, and beside calls


async def test_load_shared(inference: Inference) -> None:
    """Many callers at once share one load."""
    add_linear(inference.registry)
    await asyncio.gather(
        *(inference.predict("linear", 1, ROW) for _ in range(20)),
        *(inference.load("linear", 1) for _ in range(5)),
    )
    assert (inference.registry.lookups, inference.registry.downloads) == (1, 1)


async def test_load_twice(inference: Inference) -> None:
    """Loading a loaded version changes nothing."""
    add_linear(inference.registry)
    first = await inference.load("linear", 1)
    assert await inference.load("linear", 1) == first
    assert inference.registry.lookups == 1


async def test_load_failure_leaves_others(inference: Inference) -> None:
    """While a new version fails to load, the old one answers every call."""
    add_linear(inference.registry, 1)
    inference.registry.add("linear", 2, b"not a model", [X], [SCORE])
    await inference.load("linear", 1)
    stop = asyncio.Event()

    async def keep_calling() -> int:
        count = 0
        while not stop.is_set():
            assert (await inference.predict("linear", 1, ROW)).to_rows() == [{"score": 5.5}]
            count += 1
        return count

    calling = asyncio.create_task(keep_calling())
    for _ in range(5):
        await refused(inference.load("linear", 2))
    stop.set()
    assert await calling > 0


async def test_load_registry_down(inference: Inference) -> None:
    """Without a registry a new version is not ready; once it is back, it loads."""
    add_linear(inference.registry)
    inference.registry.is_down = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inference.predict("linear", 1, ROW)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    error = channel.from_rpc_error(caught.value)
    assert error.reason == errors.Reason.MODEL_NOT_READY
    assert error.retry_after_seconds is not None
    inference.registry.is_down = False
    assert (await inference.load("linear", 1)).state == pb.LOAD_STATE_READY


async def test_load_failed_not_hammered(inference: Inference) -> None:
    """Calls to a version that was just refused do not each ask the registry again."""
    inference.registry.add("bad", 1, b"no model", [X], [SCORE])
    for _ in range(10):
        await refused(inference.stub.Predict(predict_request("bad", 1, ROW), timeout=5))
    assert inference.registry.downloads == 1
    await refused(inference.load("bad", 1))
    assert inference.registry.lookups == 2


async def test_predict_deadline_while_loading(inference: Inference) -> None:
    """A call whose time ends during the load is told so; the load goes on for the next one."""
    add_linear(inference.registry)
    inference.registry.gate = asyncio.Event()
    seconds = 0.2
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inference.predict("linear", 1, ROW, timeout=seconds)
        if caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            break
        # On a machine that pauses, time may be over before the server can say what it waits for.
        seconds *= 2
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert channel.from_rpc_error(caught.value).reason == errors.Reason.MODEL_NOT_READY
    [listed] = await inference.listed()
    assert listed.state == pb.LOAD_STATE_LOADING
    inference.registry.gate.set()
    assert (await inference.predict("linear", 1, ROW)).rows == 1
    assert inference.registry.downloads == 1


async def test_predict_cancelled_while_loading(inference: Inference) -> None:
    """A caller that leaves during a load does not end it for the others."""
    add_linear(inference.registry)
    inference.registry.gate = asyncio.Event()
    leaving = asyncio.ensure_future(
        inference.stub.Predict(predict_request("linear", 1, ROW), timeout=10)
    )
    staying = asyncio.ensure_future(inference.predict("linear", 1, ROW))
    await until(lambda: inference.registry.lookups)
    leaving.cancel()
    await asyncio.sleep(0.05)
    inference.registry.gate.set()
    assert (await staying).to_rows() == [{"score": 5.5}]
    assert inference.registry.downloads == 1


async def test_load_ends_with_server(start: Callable[..., Any]) -> None:
    """A server that stops while a version loads does not hang."""
    async with asyncio.timeout(10):
        async with start() as inference:
            add_linear(inference.registry)
            inference.registry.gate = asyncio.Event()
            loading = asyncio.ensure_future(inference.load("linear", 1))
            await until(lambda: inference.registry.lookups)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await loading


async def test_load_takes_too_long(start: Callable[..., Any]) -> None:
    """A load has an end, also one whose model would run for ever."""
    async with start(load_seconds=0.5) as inference:
        spec = [("X", DataType.FLOAT32, ("a",))]
        profile = model_pb2.FeatureProfile(column="a", edges=[1e15])
        inference.registry.add("loop", 1, artifacts.counting(), spec, [SCORE], [profile])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inference.load("loop", 1)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        add_linear(inference.registry)
        # On a busy machine any load may take too long; the thread must be free for one that does not.
        loaded = None
        while loaded is None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                loaded = await inference.load("linear", 1)
        assert loaded.state == pb.LOAD_STATE_READY


# Unloading


async def test_unload_drops(inference: Inference) -> None:
    """An unloaded version is gone, and loads again when it is asked for."""
    add_linear(inference.registry)
    await inference.load("linear", 1)
    await inference.unload("linear", 1)
    assert await inference.listed() == []
    assert (await inference.predict("linear", 1, ROW)).rows == 1


async def test_health_of_a_version(inference: Inference) -> None:
    """Each version has a name with the standard health service, which tells whether it answers here."""
    stub = health_pb2_grpc.HealthStub(inference.channel)

    async def status(name: str) -> str:
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    add_linear(inference.registry)
    inference.registry.add("bad", 1, b"no model", [X], [SCORE])
    assert await status("linear/1") == "NOT_FOUND"
    await inference.load("linear", 1)
    await refused(inference.load("bad", 1))
    assert await status("linear/1") == "SERVING"
    assert await status("bad/1") == "NOT_SERVING"
    for name in ("linear", "linear/2", "linear/01", "linear/", "linear/¹", "linear/1/1", "/1"):
        assert await status(name) == "NOT_FOUND"
    assert await status(f"linear/{'9' * 5000}") == "NOT_FOUND"
    await inference.unload("linear", 1)
    assert await status("linear/1") == "NOT_FOUND"


async def test_lease_over_the_wire(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leased version is told apart, renewed with what lacks, and let go of when nobody renews it."""
    monkeypatch.setattr(wiring, "RELEASE_SECONDS", 0.01)
    async with start() as inference:
        add_linear(inference.registry)
        loaded = await inference.load("linear", 1, lease_seconds=60)
        assert (loaded.pinned, loaded.lease_microseconds) == (True, 60_000_000)
        assert await inference.renew([("linear", 1), ("linear", 2)], 60) == [("linear", 2)]
        for lease, model in ((0, "linear"), (60, "no name")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await inference.renew([(model, 1)], lease)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    async with start() as inference:
        await inference.load("linear", 1, lease_seconds=1e-6)
        async with asyncio.timeout(20):
            while await inference.listed():
                await asyncio.sleep(0.01)
        assert (await inference.predict("linear", 1, ROW)).to_rows() == [{"score": 5.5}]


async def test_unload_not_loaded(inference: Inference) -> None:
    """What is not loaded cannot be unloaded."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inference.unload("linear", 1)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert channel.from_rpc_error(caught.value).reason == errors.Reason.MODEL_VERSION_NOT_FOUND


async def test_unload_waits_for_calls(inference: Inference) -> None:
    """Running calls finish, and unloading waits for them."""
    spec = [("X", DataType.FLOAT32, ("a",))]
    inference.registry.add("slow", 1, artifacts.counting(), spec, [SCORE])
    await inference.load("slow", 1)
    call = asyncio.ensure_future(inference.predict("slow", 1, floats({"a": [500_000.0]})))
    await inference.until_taken(1)
    await inference.unload("slow", 1)
    assert (await asyncio.wait_for(call, 10))["score"].to_list() == [500_000.0]
    assert await inference.listed() == []


async def test_unload_failed(inference: Inference) -> None:
    """A failed version can be taken off the list."""
    inference.registry.add("bad", 1, b"no model", [X], [SCORE])
    await refused(inference.load("bad", 1))
    await inference.unload("bad", 1)
    assert await inference.listed() == []


async def test_unload_under_load(inference: Inference) -> None:
    """Calls that run, or begin, while a version is unloaded again and again all succeed; whoever waits
    for a load that is dropped at once may be told to ask again.
    """
    add_linear(inference.registry)
    await inference.load("linear", 1)
    stop, answered = asyncio.Event(), [0] * 4

    async def keep_calling(at: int, rows: int) -> None:
        values = np.ones(rows)
        while not stop.is_set():
            try:
                got = await inference.predict("linear", 1, floats({"a": values, "b": values}))
            except grpc.aio.AioRpcError as error:
                refusal = channel.from_rpc_error(error)
                assert refusal.reason is errors.Reason.MODEL_NOT_READY
                assert "dropped" in refusal.message
                continue
            assert got["score"].values[-1] == 3.5
            answered[at] += 1

    calling = [
        asyncio.create_task(keep_calling(at, rows)) for at, rows in enumerate((1, 1, 5_000, 20_000))
    ]
    unloads = 0
    while unloads < 15 or min(answered) <= 5:
        unloads += 1
        assert not any(each.done() for each in calling)
        with_effect = await asyncio.gather(inference.unload("linear", 1), return_exceptions=True)
        assert with_effect[0] is None or isinstance(with_effect[0], grpc.aio.AioRpcError)
        await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*calling)


def add_table(registry: FakeRegistry, version: int) -> None:
    """Register a model of 800 kB."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [200_000], bytes(800_000), raw=True)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["X"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["score"]),
        ],
        f"table {version}",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [table],
    )
    specs = [("X", DataType.FLOAT32, ("a",))]
    registry.add("table", version, artifacts.serialised(graph), specs, [SCORE])


async def test_load_measures_memory(inference: Inference) -> None:
    """What a version takes is measured, not guessed from its artifact; naming it pins it."""
    add_table(inference.registry, 1)
    await inference.predict("table", 1, floats({"a": [1.0]}))
    [called] = await inference.listed()
    assert not called.pinned
    assert 800_000 < called.memory_bytes < 50_000_000
    named = await inference.load("table", 1)
    assert named.pinned
    assert [each.pinned for each in await inference.listed()] == [True]


@pytest.fixture
def megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version that is opened takes a megabyte."""
    counted = itertools.count(0, 1_000_000)
    monkeypatch.setattr(memory, "own", lambda: next(counted))


@pytest.mark.usefixtures("megabytes")
async def test_evict_beyond_memory(start: Callable[..., Any]) -> None:
    """Beyond the limit a version that a call loaded is dropped, and comes back on demand."""
    async with start(max_loaded_bytes=2_500_000) as inference:
        for number in (1, 2, 3):
            add_table(inference.registry, number)
        await inference.load("table", 1)
        for number in (2, 3, 2, 3):
            assert (await inference.predict("table", number, floats({"a": [1.0]}))).rows == 1
            kept = [each.model_version.version for each in await inference.listed()]
            assert kept == [1, number]
        assert inference.registry.downloads == 3


@pytest.mark.usefixtures("megabytes")
async def test_evict_named_last(start: Callable[..., Any]) -> None:
    """Named versions go when nothing else is left, the one unused for longest first."""
    async with start(max_loaded_bytes=2_500_000) as inference:
        for number in range(1, 7):
            add_table(inference.registry, number)
        await inference.load("table", 1)
        await inference.predict("table", 2, floats({"a": [1.0]}))
        for number in range(3, 7):
            await inference.load("table", number)
        kept = [each.model_version.version for each in await inference.listed()]
        assert kept == [5, 6]


async def test_evict_cache_files(start: Callable[..., Any], tmp_path: Path) -> None:
    """Beyond its limit the cache loses the file unused for longest."""
    size = len(artifacts.linear())
    async with start(max_cache_bytes=size * 2) as inference:
        versions = []
        for number in (1, 2, 3):
            versions.append(add_linear(inference.registry, number, bias=float(number)))
            await inference.load("linear", number)
            await asyncio.sleep(0.02)
    kept = [cache_file(tmp_path, version).exists() for version in versions]
    assert kept == [False, True, True]


async def test_load_large_artifact(inference: Inference) -> None:
    """A large artifact is inspected in a process of its own, with the same result."""
    width = 300_000
    data = artifacts.linear(weights=[1.0] * width)
    columns = [f"c{index}" for index in range(width)]
    inference.registry.add("wide", 1, data, [("X", DataType.FLOAT32, columns)], [SCORE])
    assert len(data) > 1024 * 1024
    version = inference.registry.versions["wide", 1]
    version.manifest.inputs[0].columns[:] = columns[:3]
    error = await refused(inference.load("wide", 1))
    assert error.reason == errors.Reason.SIGNATURE_MISMATCH
    evil = artifacts.with_external_data(data, "../x") + b"\x1a\x80\x80\x80\x01" + bytes(2 << 20)
    inference.registry.add("wide", 2, evil, [X], [SCORE])
    error = await refused(inference.load("wide", 2))
    assert error.reason == errors.Reason.INVALID_ARTIFACT
    assert "external data" in error.message


async def test_reload_keeps_memory_flat(inference: Inference) -> None:
    """Loading and dropping a version over and over does not grow the process."""
    add_table(inference.registry, 1)
    process = psutil.Process()

    async def reload(times: int) -> int:
        for _ in range(times):
            await inference.load("table", 1)
            await inference.unload("table", 1)
        return process.memory_info().rss

    before = await reload(20)
    after = await reload(60)
    # Sixty tables would be 48 MB.
    assert after - before < 16 * 1024 * 1024
