import pydantic
import pytest

from setpoint_feature import config


def test_segments_larger_than_their_offsets_reach_are_refused() -> None:
    """Rows beyond what 32 bits can say would be lost once they leave the database."""
    assert config.FeatureSettings(segment_bytes=1 << 30).segment_bytes == 1 << 30
    with pytest.raises(pydantic.ValidationError, match="segment_bytes"):
        config.FeatureSettings(segment_bytes=(1 << 30) + 1)
