"""A server of the protocol that answers from memory, as somebody else's would."""

from collections.abc import Callable
from typing import Any, Final

from setpoint_oip import servicer, tensors
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.tensors import Tensor
from setpoint_runtime import errors

VERSION: Final = "7"


class FakePeer(servicer.Servicer):
    """Answers by a function, as version 7 of any model but `unknown`; keeps what it was asked."""

    def __init__(self) -> None:
        """Answer inputs with themselves, raw, until told otherwise."""
        super().__init__("setpoint-oip", lambda: True)
        self.metadata = pb.ModelMetadataResponse(name="sums", versions=[VERSION], platform="test")
        self.model: Callable[[dict[str, Tensor]], list[Tensor]] = lambda given: [*given.values()]
        self.is_raw = True
        self.requests: list[pb.ModelInferRequest] = []

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Any
    ) -> pb.ModelReadyResponse:
        """Say that the one version is ready."""
        if request.name == "unknown":
            raise errors.NotFoundError(errors.Reason.MODEL_NOT_FOUND, "there is no such model")
        return pb.ModelReadyResponse(ready=request.version in ("", VERSION))

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        """Return the metadata."""
        return self.metadata

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        """Return what the function makes of the inputs."""
        self.requests.append(request)
        response = pb.ModelInferResponse(model_name=request.model_name, model_version=VERSION)
        response.id = request.id
        given = {each.name: each for each in tensors.of_request(request)}
        tensors.fill_response(response, self.model(given), is_raw=self.is_raw)
        return response

    def describe(self, side: str, name: str, datatype: str, *shape: int) -> None:
        """Add a tensor to the `inputs` or `outputs` of the metadata."""
        getattr(self.metadata, side).add(name=name, datatype=datatype, shape=shape)
