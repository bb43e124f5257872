"""The suite passes a server that keeps the protocol, and finds what one does wrong."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from setpoint_columns import DataType
from setpoint_oip import description, layout, servicer, tensors, testing
from setpoint_oip.conformance import suite
from setpoint_oip.conformance.subject import Subject, example_of, zeros
from setpoint_oip.conformance.suite import Verdict
from setpoint_oip.datatypes import DATATYPES
from setpoint_oip.layout import Held, Layout
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_rpc import channel
from setpoint_rpc import server as servers
from setpoint_runtime import errors

INPUTS = Layout([Held("X", DataType.FLOAT32, ("a", "b")), Held("t", DataType.STRING, ("t",))])
OUTPUTS = Layout([Held("sum", DataType.FLOAT32, ("sum",)), Held("n", DataType.INT64, ("n",))])


class HonestPeer(testing.FakePeer):
    """Keeps the protocol, but for what a test spoils."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata.inputs.extend(INPUTS.metadata())
        self.metadata.outputs.extend(OUTPUTS.metadata())
        self.is_lax = False
        """Answer whatever is asked."""
        self.spoil: Callable[[pb.ModelInferRequest, pb.ModelInferResponse], None] | None = None

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return pb.ModelReadyResponse(ready=request.name == "sums")

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        self._check_name(request.name, request.version)
        return self.metadata

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        try:
            response = self._answer(request)
        except errors.SetpointError:
            if not self.is_lax:
                raise
            response = pb.ModelInferResponse(model_name=request.model_name)
        if self.spoil is not None:
            self.spoil(request, response)
        return response

    def _check_name(self, name: str, version: str) -> None:
        if name != "sums" or version not in ("", testing.VERSION):
            raise errors.NotFoundError(errors.Reason.MODEL_NOT_FOUND, "there is no such model")

    def _answer(self, request: Any) -> pb.ModelInferResponse:
        self._check_name(request.model_name, request.model_version)
        wanted = OUTPUTS.wanted(request.outputs)
        columns = INPUTS.columns(tensors.of_request(request, INPUTS.check))
        values = {
            "sum": columns["a"].values + columns["b"].values,
            "n": np.array([len(each) for each in columns["t"].to_list()]),
        }
        response = pb.ModelInferResponse(model_name="sums", model_version=testing.VERSION)
        response.id = request.id
        made = layout.gathered(wanted, values, columns.rows)
        is_raw = bool(request.raw_input_contents)
        tensors.fill_response(response, made, is_raw=is_raw)
        return response


@pytest.fixture
async def peer() -> AsyncIterator[tuple[HonestPeer, grpc.aio.Channel, str]]:
    """A server that keeps the protocol, a channel to it, and its address."""
    made = HonestPeer()
    server = servers.Server("peer")
    server.add(servicer.add_to_server, made, servicer.SERVICE)
    await server.start()
    await server.set_ready(True)
    try:
        async with channel.connect(server.address, client="test") as opened:
            yield made, opened, server.address
    finally:
        await server.stop(0)


Peer = tuple[HonestPeer, grpc.aio.Channel, str]


async def tried(peer: Peer, **fields: Any) -> dict[str, suite.Result]:
    """Run the suite; return the results by what was tried."""
    results = await suite.run(Subject(peer[1], "sums", **fields))
    return {each.finding: each for each in results}


async def test_suite_passes_a_server_that_keeps_the_protocol(peer: Peer) -> None:
    """Proves that nothing is found where nothing is wrong, with a version and without."""
    for version in ("", testing.VERSION):
        found = await tried(peer, version=version)
        assert len(found) > 30
        assert suite.is_conformant(found.values(), is_strict=True), suite.found(found.values())
        skipped = [each.finding for each in found.values() if each.verdict is Verdict.SKIPPED]
        assert skipped == ["the repository lists the model"]


def forget_id(request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> None:
    response.id = ""


def give_everything(request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> None:
    del request.outputs[:]
    response.CopyFrom(HonestPeer()._answer(request))


def lose_a_row(request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> None:
    """Answer one row of many, as a batcher that mixes up its callers."""
    for index, output in enumerate(response.outputs):
        if output.shape[0] > 1 and response.raw_output_contents:
            size = len(response.raw_output_contents[index]) // output.shape[0]
            output.shape[0] = 1
            response.raw_output_contents[index] = response.raw_output_contents[index][:size]


def cut_bytes(request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> None:
    if response.raw_output_contents:
        response.raw_output_contents[0] = response.raw_output_contents[0][:-1]


def differ_when_raw(request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> None:
    if request.raw_input_contents and response.outputs:
        response.raw_output_contents[0] = b"\xff" * len(response.raw_output_contents[0])


def turn_around(request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> None:
    if len(request.outputs) == 2:
        for field in (response.outputs, response.raw_output_contents):
            kept: Any = list(field)[::-1]
            del field[:]
            field.extend(kept)


@pytest.mark.parametrize(
    ("spoil", "finding", "verdict"),
    [
        (forget_id, "the answer names model, version and id", Verdict.WRONG),
        (forget_id, "callers at the same time get their own answers", Verdict.WRONG),
        (give_everything, "each output comes when it alone is wanted", Verdict.WRONG),
        (lose_a_row, "the answer has the rows of the request", Verdict.WRONG),
        (lose_a_row, "callers at the same time get their own answers", Verdict.WRONG),
        (cut_bytes, "raw contents are answered", Verdict.WRONG),
        (differ_when_raw, "typed contents mean what raw contents mean", Verdict.WRONG),
        (turn_around, "outputs come in the order in which they are wanted", Verdict.ADVICE),
    ],
)
async def test_suite_finds_wrong_answers(
    peer: Peer, spoil: Any, finding: str, verdict: Verdict
) -> None:
    """Proves that each way to answer wrongly fails the check that is about it."""
    peer[0].spoil = spoil
    assert (await tried(peer))[finding].verdict is verdict


async def test_suite_finds_what_is_not_refused(peer: Peer) -> None:
    """Proves that a server which answers anything fails every refusal of a request."""
    peer[0].is_lax = True
    found = await tried(peer)
    refusals = [name for name in found if name.startswith("refused: ") and "metadata" not in name]
    assert len(refusals) > 10
    assert {name: found[name].verdict for name in refusals} == dict.fromkeys(
        refusals, Verdict.WRONG
    )


async def test_suite_finds_wrong_metadata(peer: Peer) -> None:
    """Proves that datatypes, shapes and field 6 of the metadata are looked at."""
    peer[0].metadata.properties["owner"] = "me"
    peer[0].metadata.outputs[0].datatype = "FP64"
    found = await tried(peer)
    assert found["the metadata is readable with every published stub"].verdict is Verdict.ADVICE
    assert found["outputs are those of the metadata"].verdict is Verdict.WRONG
    peer[0].metadata.inputs[0].datatype = "float"
    assert (await tried(peer))["the model's tensors are described"].verdict is Verdict.WRONG


async def test_example_is_asked_instead_of_zeros(peer: Peer, tmp_path: Path) -> None:
    """Proves that a request in a file is what the model is asked."""
    content = {
        "inputs": [
            {"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]},
            {"name": "t", "shape": [1, 1], "datatype": "BYTES", "data": ["Zoë"]},
        ]
    }
    path = tmp_path / "example.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    seen = []
    peer[0].spoil = lambda request, response: seen.append(response)
    found = await tried(peer, example=example_of(path))
    assert suite.is_conformant(found.values()), suite.found(found.values())
    first = {each.name: each.array.tolist() for each in tensors.of_response(seen[0])}
    assert first == {"sum": [[3.5]], "n": [[3]]}
    path.write_text('{"inputs": [{"name": "X"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match="is no request"):
        example_of(path)


async def test_command_reports_and_exits(peer: Peer) -> None:
    """Proves that the program prints a line for each check and says by its exit how it went."""
    made, _, address = peer
    made.spoil = forget_id
    command = [sys.executable, "-m", "setpoint_oip.conformance", address, "--model", "sums"]
    finished = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=50, check=False
    )
    lines = finished.stdout.splitlines()
    assert finished.returncode == 1, finished.stderr
    assert lines[0] == "ok    the server is live and ready"
    assert "FAIL  the answer names model, version and id: the id is ''" in lines
    assert lines[-1].endswith(" FAIL, 1 skip")


def test_description_is_read_with_either_type_of_field_six() -> None:
    """Proves that another server's parameters in field 6 do not hide the rest."""
    made = pb.ModelMetadataResponse(name="sums", versions=["7"], platform="p")
    made.inputs.add(name="X", datatype="FP32", shape=[-1, 2])
    theirs = made.SerializeToString() + entry(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
    with pytest.raises(DecodeError):
        pb.ModelMetadataResponse.FromString(theirs)
    assert description.read(theirs) == made
    made.properties["owner"] = "me"
    assert description.read(made.SerializeToString()) == made


def entry(value: bytes) -> bytes:
    """Return an entry of field 6 whose value is a message, as MLServer sends it."""
    inside = b"\x0a\x03max" + b"\x12" + bytes([len(value)]) + value
    return b"\x32" + bytes([len(inside)]) + inside


@pytest.mark.parametrize("name", ["BOOL", "INT8", "BF16", "FP16"])
def test_zeros_fit_every_datatype(name: str) -> None:
    """Proves that a question can be made for models of any datatype."""
    described = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype=name, shape=[-1, 3, -1])
    made = zeros(described, 2)
    assert made.array.shape == (2, 3, 1)
    request = pb.ModelInferRequest()
    tensors.fill_request(request, [made])
    assert len(request.raw_input_contents[0]) == 6 * DATATYPES[name].wire.itemsize
