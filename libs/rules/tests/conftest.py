"""Property tests run on machines that do other things too: slowness is no failure here."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy-machine")
