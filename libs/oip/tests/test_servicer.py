"""What a server says of itself."""

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # no annotations
    reflection_pb2,
    reflection_pb2_grpc,
)

from setpoint_oip import servicer, testing
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.protocol import open_inference_pb2_grpc
from setpoint_rpc import server as servers


async def test_server_without_repository_says_so(
    peer: tuple[testing.FakePeer, grpc.aio.Channel],
) -> None:
    """Proves that the extension is neither advertised nor answered where there is none."""
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(peer[1])
    found = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (found.name, list(found.extensions)) == ("setpoint-oip", [])
    for call in (
        stub.RepositoryIndex(pb.RepositoryIndexRequest()),
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest()),
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_describes_the_protocol() -> None:
    """Proves that generic clients find the messages although they are in a pool of their own."""
    server = servers.Server("peer", servers.ServerOptions(dev=True))
    made = testing.FakePeer()
    server.add(servicer.add_to_server, made, servicer.SERVICE, descriptors=servicer.DESCRIPTORS)
    await server.start()
    request = reflection_pb2.ServerReflectionRequest
    asked = [
        request(file_containing_symbol="inference.GRPCInferenceService"),
        request(file_containing_symbol="inference.ModelInferRequest"),
        request(file_by_filename="setpoint_oip/protocol/open_inference.proto"),
        request(file_containing_symbol="grpc.health.v1.Health"),
        request(all_extension_numbers_of_type="inference.ModelInferRequest"),
        request(file_containing_symbol="inference.Nothing"),
    ]
    try:
        async with grpc.aio.insecure_channel(server.address) as bare:
            stub = reflection_pb2_grpc.ServerReflectionStub(bare)
            *good, extensions, nothing = [
                each async for each in stub.ServerReflectionInfo(iter(asked))
            ]
    finally:
        await server.stop(0)
    names = [
        descriptor_pb2.FileDescriptorProto.FromString(
            each.file_descriptor_response.file_descriptor_proto[0]
        ).package
        for each in good
    ]
    assert names == ["inference", "inference", "inference", "grpc.health.v1"]
    assert list(extensions.all_extension_numbers_response.extension_number) == []
    assert nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
