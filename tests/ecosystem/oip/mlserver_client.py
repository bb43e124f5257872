"""What MLServer's own stubs and codecs are told by a server of the Open Inference Protocol, as JSON.

Runs in an environment of its own, with the package as it is published. Takes a question as JSON:
address, model and columns.
"""

import json
import sys
from typing import Any

import grpc
import numpy as np
from mlserver import types
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc import converters, dataplane_pb2_grpc
from mlserver.grpc import dataplane_pb2 as pb

NUMPY = {"FP32": "f4", "FP64": "f8", "INT64": "i8", "INT32": "i4"}


def encoded(name: str, datatype: str, values: list[Any]) -> Any:
    """Return a column by the codec for its datatype."""
    if datatype == "BYTES":
        return StringCodec.encode_input(name, values)
    return NumpyCodec.encode_input(name, np.array(values, NUMPY[datatype]))


def decoded(output: Any) -> Any:
    """Return an output by the codec for its datatype."""
    if output.datatype == "BYTES":
        return StringCodec.decode_output(output)
    return NumpyCodec.decode_output(output).ravel().tolist()


def answer(stub: Any, question: dict[str, Any], *, use_raw: bool) -> dict[str, Any]:
    """Ask with typed or with raw contents."""
    inputs = [encoded(name, *column) for name, column in question["columns"].items()]
    request = converters.ModelInferRequestConverter.from_types(
        types.InferenceRequest(id="mine", inputs=inputs),
        model_name=question["model"],
        model_version=None,
        use_raw=use_raw,
    )
    response = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(request))
    return {
        "id": response.id,
        "version": response.model_version,
        "outputs": {each.name: decoded(each) for each in response.outputs},
        "parameters": {} if response.parameters is None else response.parameters.model_dump(),
    }


def ask(question: dict[str, Any]) -> dict[str, Any]:
    """Ask everything."""
    model = question["model"]
    with grpc.insecure_channel(question["address"]) as channel:
        stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        server = stub.ServerMetadata(pb.ServerMetadataRequest())
        described = stub.ModelMetadata(pb.ModelMetadataRequest(name=model))
        metadata = converters.ModelMetadataResponseConverter.to_types(described)
        found = {
            "is_live": stub.ServerLive(pb.ServerLiveRequest()).live,
            "is_ready": stub.ServerReady(pb.ServerReadyRequest()).ready,
            "is_model_ready": stub.ModelReady(pb.ModelReadyRequest(name=model)).ready,
            "server": converters.ServerMetadataResponseConverter.to_types(server).name,
            "metadata": metadata.model_dump(),
            "typed": answer(stub, question, use_raw=False),
            "raw": answer(stub, question, use_raw=True),
        }
        if question.get("repository"):
            index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
            found["repository"] = [each.state for each in index.models if each.name == model]
        return found


if __name__ == "__main__":
    print(json.dumps(ask(json.loads(sys.argv[1])), default=str))
