"""The server that is tried, and good questions to it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np

from setpoint_oip import description, parameters, tensors
from setpoint_oip.datatypes import BYTES, DATATYPES
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.protocol import open_inference_pb2_grpc
from setpoint_oip.tensors import Tensor
from setpoint_runtime import errors

CALL_SECONDS: Final = 30.0
"""Longest time for a call; a server may have to load a model first."""

_ROWS: Final = 2


class WrongError(Exception):
    """The server does what the protocol does not allow."""


class AdviceError(Exception):
    """The server may do so, but clients of other servers will stumble over it."""


class SkippedError(Exception):
    """The check does not apply to this server or model."""


class Subject:
    """A server and one of its models."""

    def __init__(
        self,
        opened: grpc.aio.Channel,
        model: str,
        version: str = "",
        example: Sequence[Tensor] | None = None,
    ) -> None:
        """Try a model.

        Args:
            opened: A channel to the server.
            model: Name of the model.
            version: Version to ask for; empty lets the server choose.
            example: Inputs that the model answers; by default zeros in the shapes of its metadata.
        """
        self.stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(opened)
        self.stub.ModelMetadata = description.caller(opened)
        self.model = model
        self.version = version
        self._example = example
        self._metadata: pb.ModelMetadataResponse | None = None

    async def call(self, method: str, request: Any) -> Any:
        """Return the answer to a request that must be answered."""
        try:
            return await getattr(self.stub, method)(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise WrongError(f"{method} fails: {error.code().name}: {error.details()}") from error

    async def refusal(self, method: str, request: Any) -> grpc.StatusCode:
        """Return the code of a request that must not be answered."""
        try:
            answer = await getattr(self.stub, method)(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED):
                raise WrongError(f"{method} fails with {error.code().name}") from error
            return error.code()
        raise WrongError(f"is answered: {str(answer)[:200]!r}")

    async def metadata(self) -> pb.ModelMetadataResponse:
        """Return the model's metadata, asked for once."""
        if self._metadata is None:
            request = pb.ModelMetadataRequest(name=self.model, version=self.version)
            self._metadata = await self.call("ModelMetadata", request)
        return self._metadata

    async def inputs(self, rows: int = _ROWS) -> list[Tensor]:
        """Return inputs that the model answers; of other numbers of rows where that is open."""
        if self._example is not None:
            return list(self._example)
        return [zeros(each, rows) for each in (await self.metadata()).inputs]

    async def has_open_rows(self) -> bool:
        """Say whether the request decides on the number of rows, in and out."""
        found = await self.metadata()
        shapes = [each.shape for each in (*found.inputs, *found.outputs)]
        return self._example is None and all(shape and shape[0] == -1 for shape in shapes)

    async def question(
        self, *, is_raw: bool = True, rows: int = _ROWS, outputs: Iterable[str] = (), **fields: Any
    ) -> pb.ModelInferRequest:
        """Return a good request."""
        names: dict[str, Any] = {"model_name": self.model, "model_version": self.version}
        request = pb.ModelInferRequest(**(names | fields))
        given = await self.inputs(rows)
        if not is_raw and any(not each.datatype.contents for each in given):
            raise SkippedError("the model takes half floats, which have no typed contents")
        tensors.fill_request(request, given, is_raw=is_raw)
        for name in outputs:
            request.outputs.add(name=name)
        return request

    async def ask(self, **fields: Any) -> pb.ModelInferResponse:
        """Return the answer to a good request."""
        answer: pb.ModelInferResponse = await self.call("ModelInfer", await self.question(**fields))
        return answer


def outputs_of(response: pb.ModelInferResponse) -> dict[str, Tensor]:
    """Return the outputs of an answer, which must be well formed."""
    try:
        return {each.name: each for each in tensors.of_response(response)}
    except errors.InvalidArgumentError as error:
        raise WrongError(error.message) from error


def example_of(path: Path) -> list[Tensor]:
    """Return the inputs of a request in the protocol's JSON form.

    Raises:
        ValueError: The file does not hold one.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        return [_from_json(each) for each in content["inputs"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no request: {error!r}") from error


def _from_json(entry: Mapping[str, Any]) -> Tensor:
    datatype = DATATYPES[entry["datatype"]]
    data = np.array(entry["data"], object).reshape(entry["shape"])
    if datatype is not BYTES:
        data = data.astype(_native(datatype.name))
    return Tensor(entry["name"], datatype, data)


def _native(name: str) -> np.dtype[Any]:
    special = {"BOOL": np.dtype(bool), "BF16": np.dtype("<f4")}
    return special.get(name, DATATYPES[name].wire)


def zeros(described: pb.ModelMetadataResponse.TensorMetadata, rows: int) -> Tensor:
    """Return a tensor of a described shape; what is open beside the rows has the size 1."""
    datatype = DATATYPES.get(described.datatype)
    if datatype is None:
        raise WrongError(f"the datatype {described.datatype!r} of {described.name!r} is unknown")
    shape = [
        (1 if axis else rows) if size == -1 else size for axis, size in enumerate(described.shape)
    ]
    if datatype is BYTES:
        return Tensor(described.name, datatype, np.full(shape, b"0", object))
    return Tensor(described.name, datatype, np.zeros(shape, _native(datatype.name)))


def add_parameter(request: pb.ModelInferRequest, name: str, value: parameters.Value) -> None:
    """Write one more parameter into a request."""
    parameters.fill(request.parameters, {name: value})
