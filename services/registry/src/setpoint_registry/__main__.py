"""Runs the registry."""

from setpoint_registry import config, wiring
from setpoint_rpc import run

if __name__ == "__main__":
    run.run_service("registry", config.RegistrySettings(), wiring.build)
