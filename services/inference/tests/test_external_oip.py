"""Versions that another server of the Open Inference Protocol runs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pydantic
import pytest

from setpoint.inference.v1 import inference_service_pb2 as pb
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import testing as artifacts
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_inference import config
from setpoint_inference.testing import FakeRegistry, Inference, floats, refused
from setpoint_oip import servicer
from setpoint_oip import testing as oip_testing
from setpoint_oip.datatypes import BYTES, DATATYPES
from setpoint_oip.tensors import Tensor
from setpoint_rpc import server as servers
from setpoint_runtime import errors

Start = Callable[..., AbstractAsyncContextManager[Inference]]
F32 = DataType.FLOAT32
INPUTS = [("X", F32, ("a", "b")), ("kind", DataType.STRING, ("kind",))]
OUTPUTS = [("sum", F32, ("sum",)), ("label", DataType.STRING, ("label",))]
ROWS = Columns.from_dict(
    {
        "a": (DataType.FLOAT64, [1.0, 2.0]),
        "b": (DataType.FLOAT64, [10.0, 20.0]),
        "kind": (DataType.STRING, ["box", "Zoë"]),
    }
)


def answer(given: dict[str, Tensor]) -> list[Tensor]:
    """Add up a row, and make its kind long."""
    sums = given["X"].array.sum(axis=1, dtype=np.float32)
    kinds = [bytes(each) * 2 for each in given["kind"].array.reshape(-1).tolist()]
    return [
        Tensor("sum", DATATYPES["FP32"], sums),
        Tensor("label", BYTES, np.array(kinds, object)),
    ]


class Peer(oip_testing.FakePeer):
    """Answers when its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Wait for the gate and answer."""
        await self.gate.wait()
        return await super().ModelInfer(request, context)


@pytest.fixture
async def peer() -> AsyncIterator[tuple[Peer, str]]:
    """Somebody else's server with a model of two inputs and two outputs, and its address."""
    made = Peer()
    made.model = answer
    made.describe("inputs", "X", "FP32", -1, 2)
    made.describe("inputs", "kind", "BYTES", -1)
    made.describe("outputs", "sum", "FP32", -1)
    made.describe("outputs", "label", "BYTES", -1, 1)
    made.describe("outputs", "more", "FP64", -1, 7)
    server = servers.Server("oip")
    server.add(servicer.add_to_server, made, servicer.SERVICE)
    await server.start()
    await server.set_ready(True)
    try:
        yield made, server.address
    finally:
        await server.stop(0)


def add(
    registry: FakeRegistry, address: str, model: str = "sums", version: int = 1
) -> model_pb2.ModelVersion:
    """Register a version that a server at an address runs."""
    document = json.dumps({"address": address, "model": model}).encode()
    format = model_pb2.ARTIFACT_FORMAT_EXTERNAL_OIP
    return registry.add("outside", version, document, INPUTS, OUTPUTS, format=format)


async def test_predict_outside(start: Start, peer: tuple[Peer, str]) -> None:
    """Rows go out as the server's tensors and come back as the manifest's columns."""
    _, address = peer
    async with start(external_addresses=(address,)) as inference:
        add(inference.registry, address)
        assert (await inference.load("outside", 1)).state == pb.LOAD_STATE_READY
        got = await inference.predict("outside", 1, ROWS)
        assert got.to_rows() == [
            {"sum": 11.0, "label": "boxbox"},
            {"sum": 22.0, "label": "ZoëZoë"},
        ]
        assert (await inference.predict("outside", 1, ROWS.slice(0, 0))).rows == 0
        await inference.unload("outside", 1)
        assert (await inference.predict("outside", 1, ROWS)).rows == 2


async def test_predict_outside_by_setpoint(start: Start) -> None:
    """Another inference can be the server."""
    async with start() as other:
        other.registry.add(
            "linear", 1, artifacts.linear(), [("X", F32, ("a", "b"))], [("score", F32, ("score",))]
        )
        await other.load("linear", 1)
        async with start(external_addresses=(other.address,)) as inference:
            document = {"address": other.address, "model": "linear", "version": "1"}
            inference.registry.add(
                "outside",
                1,
                json.dumps(document).encode(),
                [("X", F32, ("a", "b"))],
                [("score", F32, ("score",))],
                format=model_pb2.ARTIFACT_FORMAT_EXTERNAL_OIP,
            )
            got = await inference.predict("outside", 1, floats({"a": [1.0], "b": [2.0]}))
            assert got.to_rows() == [{"score": 5.5}]


@pytest.mark.parametrize("allowed", [(), ("127.0.0.1:1",), ("LOCALHOST:1", "a.example:9000")])
async def test_load_address_not_allowed(
    start: Start, peer: tuple[Peer, str], allowed: tuple[str, ...]
) -> None:
    """An address that is not on the list is refused by name and never asked."""
    made, address = peer
    async with start(external_addresses=allowed) as inference:
        add(inference.registry, address)
        error = await refused(inference.load("outside", 1))
        assert isinstance(error, errors.FailedPreconditionError)
        assert "list" in error.message or "not served" in error.message
        assert made.requests == []


@pytest.mark.parametrize(
    "address", ["unix:/tmp/x:1", "dns:///127.0.0.1:1", "127.0.0.1", "a b:1", "user@host:1", ""]
)
def test_allow_list_takes_addresses_alone(address: str) -> None:
    """The list itself holds hosts and ports, none of gRPC's other names."""
    with pytest.raises(pydantic.ValidationError, match="is not host:port"):
        config.InferenceSettings(external_addresses=(address,))


@pytest.mark.parametrize(
    ("side", "index", "change", "said"),
    [
        ("inputs", 0, {"datatype": "FP64"}, "is FP64 on the server, not FP32"),
        ("inputs", 0, {"shape": [-1, 3]}, "is [-1, 3] on the server, not [-1, 2]"),
        ("inputs", 0, {"shape": [8, 2]}, "is [8, 2] on the server"),
        ("inputs", 0, {"shape": [-1]}, "is [-1] on the server"),
        ("inputs", 0, {"name": "Y"}, "'X' is unknown to the server"),
        ("outputs", 1, {"name": "Y"}, "'label' is unknown to the server"),
        ("outputs", 1, {"datatype": "INT64"}, "is INT64 on the server, not BYTES"),
    ],
)
async def test_load_other_signature(
    start: Start,
    peer: tuple[Peer, str],
    side: str,
    index: int,
    change: dict[str, object],
    said: str,
) -> None:
    """A server whose model is another than the manifest says is refused, naming the tensor."""
    made, address = peer
    tensor = getattr(made.metadata, side)[index]
    for name, value in change.items():
        if name == "shape":
            tensor.shape[:] = value
        else:
            setattr(tensor, name, value)
    async with start(external_addresses=(address,)) as inference:
        add(inference.registry, address)
        error = await refused(inference.load("outside", 1))
        assert error.reason == errors.Reason.SIGNATURE_MISMATCH
        assert said in error.message


async def test_load_input_left_out(start: Start, peer: tuple[Peer, str]) -> None:
    """An input that only the server knows is a mismatch as well: it would be missing in each call."""
    made, address = peer
    made.describe("inputs", "extra", "FP32", -1, 1)
    async with start(external_addresses=(address,)) as inference:
        add(inference.registry, address)
        error = await refused(inference.load("outside", 1))
        assert "'extra' is missing in the manifest" in error.message


async def test_load_server_away(start: Start) -> None:
    """A server that does not answer leaves its version not ready, and the others as they are."""
    async with start(external_addresses=("127.0.0.1:1",)) as inference:
        add(inference.registry, "127.0.0.1:1")
        error = await refused(inference.load("outside", 1))
        assert isinstance(error, errors.UnavailableError)
        assert error.reason == errors.Reason.MODEL_NOT_READY
        inference.registry.add(
            "linear", 1, artifacts.linear(), [("X", F32, ("a", "b"))], [("score", F32, ("score",))]
        )
        assert (await inference.load("linear", 1)).state == pb.LOAD_STATE_READY


async def test_predict_server_fails(start: Start, peer: tuple[Peer, str]) -> None:
    """What the server says wrongly, or fails at, is an error of that call with a reason."""
    made, address = peer
    async with start(external_addresses=(address,)) as inference:
        add(inference.registry, address)
        await inference.load("outside", 1)
        for model in (
            lambda given: answer(given)[:1],
            lambda given: [*answer(given)[1:], Tensor("sum", DATATYPES["FP32"], np.zeros(7, "f4"))],
            lambda given: [*answer(given)[1:], Tensor("sum", DATATYPES["FP64"], np.zeros(2))],
            lambda given: [
                *answer(given)[:1],
                Tensor("label", BYTES, np.array([b"\xff", b"x"], object)),
            ],
            lambda given: given["nothing"],
        ):
            made.model = model
            error = await refused(inference.predict("outside", 1, ROWS))
            assert error.reason == errors.Reason.INFERENCE_FAILED
        made.model = answer
        assert (await inference.predict("outside", 1, ROWS)).rows == 2


async def test_predict_deadline_travels(start: Start, peer: tuple[Peer, str]) -> None:
    """A server that does not answer costs a caller its own deadline; the next one is answered."""
    made, address = peer
    async with start(external_addresses=(address,)) as inference:
        add(inference.registry, address)
        await inference.load("outside", 1)
        made.gate.clear()
        error = await refused(inference.predict("outside", 1, ROWS, timeout=0.3))
        assert isinstance(error, errors.DeadlineExceededError)
        made.gate.set()
        assert (await inference.predict("outside", 1, ROWS)).rows == 2
