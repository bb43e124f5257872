"""Takes the traces of a stack, and says how many predictions they hold. ``… trace_sink PORT``."""

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

SERVICE = "setpoint.bench.Sink"
METHOD = "Count"
PATH = f"/{SERVICE}/{METHOD}"
PREDICTION = "setpoint.predict"
"""Name of the span that the router makes for each prediction."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts what it is sent and forgets it."""

    def __init__(self) -> None:
        self.predictions = 0

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: _Context
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes spans."""
        del context
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.predictions += sum(span.name == PREDICTION for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    async def count(self, request: bytes, context: _Context) -> bytes:
        """Says how many predictions there were, as text."""
        del request, context
        return str(self.predictions).encode()


async def serve(port: int) -> None:
    """Takes traces until the process ends."""
    server = grpc.aio.server()
    sink = Sink()
    add = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(sink, server)  # type: ignore[no-untyped-call]  # generated without annotations
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        METHOD: grpc.unary_unary_rpc_method_handler(sink.count)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
