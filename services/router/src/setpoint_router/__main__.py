"""Runs the router."""

from setpoint_router import config, wiring
from setpoint_rpc import run

if __name__ == "__main__":
    run.run_service("router", config.RouterSettings(), wiring.build)
