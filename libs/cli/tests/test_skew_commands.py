from setpoint.feature.v1 import audit_service_pb2 as messages
from setpoint_cli import session, skew_commands


def test_predictions_whose_history_is_gone_are_told() -> None:
    """They are neither equal nor different, so the table alone would hide them."""
    found = skew_commands._Found()
    for removed in (2, 0, 1):
        found.add(messages.FeatureSetSkew(predictions=4, values=8, removed_predictions=removed))
    with session.console.capture() as shown:
        skew_commands._show({("flights", "0123456789abcdef"): found})
    told = " ".join(shown.get().split())
    assert "3 predictions with flights@0123456789ab were not replayed" in told

    with session.console.capture() as shown:
        skew_commands._show({("flights", "0"): skew_commands._Found()})
    assert "not replayed" not in shown.get()
