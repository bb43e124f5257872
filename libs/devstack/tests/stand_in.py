"""A small gRPC server that behaves as a service of Setpoint does, run by the tests as a child.

What it does is told by STAND_IN_<NAME>, a list of words: `die` ends at once with a message, `stubborn`
ignores SIGTERM, `slow` is ready after a second, `family` starts a child process of its own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent import futures

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]  # ships no annotations
    health,
    health_pb2,
    health_pb2_grpc,
)


def log(event: str, **fields: object) -> None:
    """Writes a line as services do."""
    line = {"event": event, "level": "info", "timestamp": "2013-01-01T00:00:00.000000Z", **fields}
    sys.stderr.write(json.dumps(line) + "\n")


def main(name: str) -> None:
    """Serves health until told to stop."""
    prefix = f"SETPOINT_{name.upper()}_"
    habits = os.environ.get(f"STAND_IN_{name.upper()}", "").split()
    settings = {key: value for key, value in os.environ.items() if key.startswith("SETPOINT_")}
    resource = os.environ.get("OTEL_RESOURCE_ATTRIBUTES")
    log("starting", settings=sorted(settings), resource=resource)
    if "die" in habits:
        sys.stderr.write("the disk is on fire\n")
        sys.exit(3)
    if "family" in habits:
        # Left behind on purpose: somebody else has to end it.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        log("child", pid=child.pid)
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    server.add_insecure_port(f"127.0.0.1:{os.environ[prefix + 'PORT']}")
    server.start()
    if "slow" in habits:
        time.sleep(1)
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    log("ready", peers=sorted(k for k in settings if k.startswith(prefix) and "ADDRESS" in k))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    while not stopped or "stubborn" in habits:
        time.sleep(0.05)
    log("stopping")
    server.stop(0.1).wait()


if __name__ == "__main__":
    main(sys.argv[1])
