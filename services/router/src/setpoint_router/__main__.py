"""Runs the router."""

from setpoint_router import config, wiring
from setpoint_rpc import run
from setpoint_runtime import allocator

if __name__ == "__main__":
    _ = allocator.keep_freed()
    run.run_service("router", config.RouterSettings(), wiring.build)
