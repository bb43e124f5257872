"""Runs validation."""

from setpoint_rpc import run
from setpoint_validation import config, wiring

if __name__ == "__main__":
    run.run_service("validation", config.ValidationSettings(), wiring.build)
