"""What must be so with a server of the protocol, one function each, in the order of trying."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import grpc
import numpy as np

from setpoint_oip.conformance.subject import (
    CALL_SECONDS,
    AdviceError,
    SkippedError,
    Subject,
    WrongError,
    add_parameter,
    outputs_of,
)
from setpoint_oip.datatypes import BYTES, DATATYPES
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.tensors import Tensor

Check = Callable[[Subject], Awaitable[None]]

CHECKS: Final[dict[str, Check]] = {}
"""By what they find to be so."""

UNKNOWN: Final = "no-such-model-9d3a"
_CALLERS: Final = 16


def check(finding: str, into: dict[str, Check] = CHECKS) -> Callable[[Check], Check]:
    """Make a function one of the checks."""

    def added(function: Check) -> Check:
        into[finding] = function
        return function

    return added


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise WrongError(otherwise)


def _should(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AdviceError(otherwise)


# The server.


@check("the server is live and ready")
async def check_server(subject: Subject) -> None:
    """ServerLive and ServerReady answer yes."""
    _must((await subject.call("ServerLive", pb.ServerLiveRequest())).live, "it is not live")
    _must((await subject.call("ServerReady", pb.ServerReadyRequest())).ready, "it is not ready")


@check("the server names itself")
async def check_server_metadata(subject: Subject) -> None:
    """ServerMetadata has a name, and should have a version."""
    found = await subject.call("ServerMetadata", pb.ServerMetadataRequest())
    _must(bool(found.name), "it has no name")
    _should(bool(found.version), "it has no version")


# The model.


@check("the model is ready")
async def check_model_ready(subject: Subject) -> None:
    """ModelReady answers yes, and as ModelInfer will."""
    request = pb.ModelReadyRequest(name=subject.model, version=subject.version)
    _must((await subject.call("ModelReady", request)).ready, "it is not ready")


@check("an unknown model is not ready")
async def check_unknown_model_ready(subject: Subject) -> None:
    """ModelReady answers no, or fails."""
    try:
        found = await subject.stub.ModelReady(
            pb.ModelReadyRequest(name=UNKNOWN), timeout=CALL_SECONDS
        )
    except grpc.aio.AioRpcError:
        return
    _must(not found.ready, "it is ready")


@check("the model's tensors are described")
async def check_metadata(subject: Subject) -> None:
    """ModelMetadata has the name, and for each tensor a name, a datatype and a shape."""
    found = await subject.metadata()
    _must(found.name == subject.model, f"the name is {found.name!r}")
    for side, described in (("input", found.inputs), ("output", found.outputs)):
        names = [each.name for each in described]
        _must(bool(names), f"there is no {side}")
        _must(len(set(names)) == len(names), f"two {side}s have one name: {names}")
        for each in described:
            _must(each.datatype in DATATYPES, f"{side} {each.name!r}: datatype {each.datatype!r}")
            _must(min([0, *each.shape]) >= -1, f"{side} {each.name!r}: shape {list(each.shape)}")
    _should(bool(found.platform), "the platform is empty")


@check("the metadata is readable with every published stub")
async def check_field_six(subject: Subject) -> None:
    """Field 6 has two types in published stubs; only an empty one can be read with both."""
    _should(not (await subject.metadata()).properties, "ModelMetadataResponse has field 6")


# Answers.


@check("raw contents are answered")
async def check_raw(subject: Subject) -> None:
    """ModelInfer answers a request with raw contents."""
    _must(bool(outputs_of(await subject.ask())), "there is no output")


@check("typed contents mean what raw contents mean")
async def check_typed(subject: Subject) -> None:
    """ModelInfer gives the same outputs for typed and for raw contents."""
    typed = outputs_of(await subject.ask(is_raw=False))
    raw = outputs_of(await subject.ask())
    _must(typed.keys() == raw.keys(), f"outputs {list(typed)} and {list(raw)}")
    for name, tensor in typed.items():
        _must(_is_equal(tensor, raw[name]), f"output {name!r} differs")


@check("the answer names model, version and id")
async def check_names(subject: Subject) -> None:
    """ModelInfer sends the id back, and says who answered."""
    found = await subject.ask(id="id of a caller")
    _must(found.model_name == subject.model, f"the model is {found.model_name!r}")
    _must(found.id == "id of a caller", f"the id is {found.id!r}")
    versions = list((await subject.metadata()).versions)
    if subject.version:
        _must(found.model_version == subject.version, f"version {found.model_version!r} answered")
    elif versions:
        _should(bool(found.model_version), "the version that was chosen is not named")


@check("outputs are those of the metadata")
async def check_outputs(subject: Subject) -> None:
    """Without a wish every output comes, in its datatype and shape."""
    described = {each.name: each for each in (await subject.metadata()).outputs}
    found = outputs_of(await subject.ask())
    _must(found.keys() == described.keys(), f"{list(found)} came, {list(described)} are described")
    for name, tensor in found.items():
        wanted, shape = described[name], tensor.array.shape
        _must(tensor.datatype.name == wanted.datatype, f"{name!r} is {tensor.datatype.name}")
        fits = len(shape) == len(wanted.shape) and all(
            size in (-1, there) for size, there in zip(wanted.shape, shape, strict=True)
        )
        _must(fits, f"{name!r} has the shape {list(shape)}, described is {list(wanted.shape)}")


@check("each output comes when it alone is wanted")
async def check_wanted_output(subject: Subject) -> None:
    """Requested outputs decide on what comes, and do not change it."""
    everything = outputs_of(await subject.ask())
    for name, tensor in everything.items():
        found = outputs_of(await subject.ask(outputs=[name]))
        _must(list(found) == [name], f"{list(found)} came for {name!r}")
        _must(_is_equal(found[name], tensor), f"output {name!r} differs when it alone is wanted")


@check("outputs come in the order in which they are wanted")
async def check_order_of_outputs(subject: Subject) -> None:
    """Clients that read outputs by position get what they asked for."""
    names = [each.name for each in (await subject.metadata()).outputs][::-1]
    if len(names) < 2:
        raise SkippedError("the model has one output")
    found = list(outputs_of(await subject.ask(outputs=names)))
    _should(found == names, f"{found} came for {names}")


@check("the answer has the rows of the request")
async def check_rows(subject: Subject) -> None:
    """One row and seven rows get as many answers."""
    if not await subject.has_open_rows():
        raise SkippedError("the number of rows is not open")
    for rows in (1, 7):
        for name, tensor in outputs_of(await subject.ask(rows=rows)).items():
            there = tensor.array.shape[0]
            _must(there == rows, f"{there} rows of {name!r} for {rows}")


@check("callers at the same time get their own answers")
async def check_parallel_callers(subject: Subject) -> None:
    """Ids and numbers of rows do not cross between requests in flight together."""
    is_open = await subject.has_open_rows()

    async def ask(number: int) -> None:
        rows = number % 5 + 1 if is_open else 2
        found = await subject.ask(rows=rows, id=f"caller {number}")
        _must(found.id == f"caller {number}", f"caller {number} got the answer to {found.id!r}")
        for tensor in outputs_of(found).values():
            _must(not is_open or tensor.array.shape[0] == rows, f"caller {number} got other rows")

    await asyncio.gather(*(ask(number) for number in range(_CALLERS)))


@check("a version can be asked for by name")
async def check_named_version(subject: Subject) -> None:
    """A version of the metadata answers, as itself."""
    versions = list((await subject.metadata()).versions)
    if len(versions) != 1:
        raise SkippedError(f"the server tells of {len(versions)} versions, and may have to choose")
    found = await subject.ask(model_version=versions[0])
    _must(found.model_version == versions[0], f"version {found.model_version!r} answered")


@check("parameters of others do no harm")
async def check_unknown_parameters(subject: Subject) -> None:
    """A parameter that a server does not know is left alone."""
    request = await subject.question()
    add_parameter(request, "no_such_parameter_9d3a", 1)
    try:
        await subject.stub.ModelInfer(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise AdviceError(f"refused: {error.code().name}: {error.details()}") from error


@check("the repository lists the model")
async def check_repository(subject: Subject) -> None:
    """A server with the model repository extension has the model in its index."""
    server = await subject.call("ServerMetadata", pb.ServerMetadataRequest())
    if "model_repository" not in server.extensions:
        raise SkippedError("the server does not have the extension")
    index = await subject.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    found = [each for each in index.models if each.name == subject.model]
    _must(bool(found), "the model is not in the index of what is ready")
    _must(all(each.state == "READY" for each in found), f"its state is {found[0].state!r}")


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if one.datatype is not other.datatype or one.array.shape != other.array.shape:
        return False
    if one.datatype is BYTES:
        return bool(one.array.tolist() == other.array.tolist())
    return np.array_equal(one.array, other.array, equal_nan=one.array.dtype.kind == "f")
