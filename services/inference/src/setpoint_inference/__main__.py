"""Runs inference."""

from setpoint_inference import config, wiring
from setpoint_rpc import run

if __name__ == "__main__":
    run.run_service("inference", config.InferenceSettings(), wiring.build)
