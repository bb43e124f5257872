"""An empty gRPC service of grpc.aio: the least that a call can cost. ``… echo_server PORT``."""

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio

SERVICE = "setpoint.bench.Echo"
METHOD = "Say"
PATH = f"/{SERVICE}/{METHOD}"


async def _say(request: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
    del context
    return request


async def serve(port: int) -> None:
    """Answers until the process ends."""
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        METHOD: grpc.unary_unary_rpc_method_handler(_say)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Serves on the loop that Setpoint's services use too."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
