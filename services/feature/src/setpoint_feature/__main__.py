"""Runs the feature service: `python -m setpoint_feature`."""

from setpoint_feature import config, wiring
from setpoint_rpc import run


def main() -> None:
    """Reads the settings and serves until told to stop."""
    run.run_service("feature", config.FeatureSettings(), wiring.build)


if __name__ == "__main__":
    main()
