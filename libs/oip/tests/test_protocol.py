"""The stubs are the published protocol, and share a process with anybody's."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from setpoint_oip.protocol import open_inference_pb2 as pb

# Name and number of every field, by message, as the protocol was published.
FIELDS = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": 1},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": 1},
    "ModelReadyRequest": {"name": 1, "version": 2},
    "ModelReadyResponse": {"ready": 1},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
    "ModelMetadataRequest": {"name": 1, "version": 2},
    "ModelMetadataResponse": {
        "name": 1,
        "versions": 2,
        "platform": 3,
        "inputs": 4,
        "outputs": 5,
        "properties": 6,
    },
    "ModelMetadataResponse.TensorMetadata": {"name": 1, "datatype": 2, "shape": 3},
    "InferParameter": {
        "bool_param": 1,
        "int64_param": 2,
        "string_param": 3,
        "double_param": 4,
        "uint64_param": 5,
    },
    "InferTensorContents": {
        "bool_contents": 1,
        "int_contents": 2,
        "int64_contents": 3,
        "uint_contents": 4,
        "uint64_contents": 5,
        "fp32_contents": 6,
        "fp64_contents": 7,
        "bytes_contents": 8,
    },
    "ModelInferRequest": {
        "model_name": 1,
        "model_version": 2,
        "id": 3,
        "parameters": 4,
        "inputs": 5,
        "outputs": 6,
        "raw_input_contents": 7,
    },
    "ModelInferRequest.InferInputTensor": {
        "name": 1,
        "datatype": 2,
        "shape": 3,
        "parameters": 4,
        "contents": 5,
    },
    "ModelInferRequest.InferRequestedOutputTensor": {"name": 1, "parameters": 2},
    "ModelInferResponse": {
        "model_name": 1,
        "model_version": 2,
        "id": 3,
        "parameters": 4,
        "outputs": 5,
        "raw_output_contents": 6,
    },
    "ModelInferResponse.InferOutputTensor": {
        "name": 1,
        "datatype": 2,
        "shape": 3,
        "parameters": 4,
        "contents": 5,
    },
    "ModelRepositoryParameter": {
        "bool_param": 1,
        "int64_param": 2,
        "string_param": 3,
        "bytes_param": 4,
    },
    "RepositoryIndexRequest": {"repository_name": 1, "ready": 2},
    "RepositoryIndexResponse": {"models": 1},
    "RepositoryIndexResponse.ModelIndex": {"name": 1, "version": 2, "state": 3, "reason": 4},
    "RepositoryModelLoadRequest": {"repository_name": 1, "model_name": 2, "parameters": 3},
    "RepositoryModelLoadResponse": {},
    "RepositoryModelUnloadRequest": {"repository_name": 1, "model_name": 2, "parameters": 3},
    "RepositoryModelUnloadResponse": {},
}


def fields() -> dict[str, dict[str, int]]:
    """Reads every message of the stubs, map entries left out."""
    found = {}
    waiting = list(pb.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        if not message.GetOptions().map_entry:
            name = message.full_name.removeprefix("inference.")
            found[name] = {field.name: field.number for field in message.fields}
            waiting += message.nested_types
    return found


def test_fields_are_the_published_ones() -> None:
    """Proves that each message has the names and numbers of the published protocol."""
    assert fields() == FIELDS


def test_methods_are_the_published_ones() -> None:
    """Proves that each method has its published path, request and answer."""
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    names = ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"]
    names += ["ModelInfer", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"]
    assert service.full_name == "inference.GRPCInferenceService"
    assert [method.name for method in service.methods] == names
    for method in service.methods:
        assert method.input_type.full_name == f"inference.{method.name}Request"
        assert method.output_type.full_name == f"inference.{method.name}Response"
        assert not method.client_streaming
        assert not method.server_streaming


def test_names_stay_free_for_other_stubs() -> None:
    """Proves that a process can hold another package's messages of the same names."""
    other = descriptor_pb2.FileDescriptorProto(
        name="grpc_service.proto", package="inference", syntax="proto3"
    )
    other.message_type.add(name="ModelInferRequest").field.add(
        name="model_name",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )
    shared = descriptor_pool.Default()
    shared.AddSerializedFile(other.SerializeToString())
    theirs = message_factory.GetMessageClass(
        shared.FindMessageTypeByName("inference.ModelInferRequest")
    )
    ours = pb.ModelInferRequest(model_name="late", id="7")
    parsed = theirs.FromString(ours.SerializeToString())
    assert [value for _, value in parsed.ListFields()] == ["late"]
