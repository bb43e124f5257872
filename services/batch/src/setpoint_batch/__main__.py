"""Runs the batch service."""

from setpoint_batch import config, wiring
from setpoint_rpc import run

if __name__ == "__main__":
    run.run_service("batch", config.BatchSettings(), wiring.build)
