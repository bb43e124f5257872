import pydantic
import pytest

from setpoint_feature import config


def test_segments_larger_than_their_offsets_reach_are_refused() -> None:
    """Rows beyond what 32 bits can say would be lost once they leave the database."""
    assert config.FeatureSettings(segment_bytes=1 << 30).segment_bytes == 1 << 30
    with pytest.raises(pydantic.ValidationError, match="segment_bytes"):
        config.FeatureSettings(segment_bytes=(1 << 30) + 1)


@pytest.mark.parametrize("life", ["request", "batch", "skew"])
def test_lives_are_for_ever_or_end_within_what_a_calendar_reaches(life: str) -> None:
    """0 is for ever; a negative life, and one that a database cannot subtract from now, are refused."""
    name = f"{life}_life_seconds"

    def made(seconds: float) -> config.FeatureSettings:
        return config.FeatureSettings.model_validate({name: seconds})

    assert getattr(made(0), name) == 0
    for bad in (-1, 1e12):
        with pytest.raises(pydantic.ValidationError, match=name):
            made(bad)
