"""Runs retraining."""

from setpoint_retraining import config, wiring
from setpoint_rpc import run

if __name__ == "__main__":
    run.run_service("retraining", config.RetrainingSettings(), wiring.build)
