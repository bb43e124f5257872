import pytest

from setpoint_validation import config


def test_settings_defaults() -> None:
    """Without any variable the service listens on its own port and holds the contract's bound."""
    settings = config.ValidationSettings()
    assert (settings.port, settings.effective_metrics_port) == (7403, 8403)
    assert settings.max_rows == 10_000_000


def test_settings_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are read by their prefix, and the contract's bound is not exceeded."""
    monkeypatch.setenv("SETPOINT_VALIDATION_MAX_ROWS", "5")
    assert config.ValidationSettings().max_rows == 5
    monkeypatch.setenv("SETPOINT_VALIDATION_MAX_ROWS", "10000001")
    with pytest.raises(ValueError, match="max_rows"):
        config.ValidationSettings()
