"""The reasons that services raise are the reasons that the contract publishes."""

from setpoint.errordetails.v1 import reason_pb2
from setpoint_runtime import errors

PREFIX = "REASON_"


def test_reasons_equal_the_contract() -> None:
    """Proves that each reason raised is published, and each one published can be raised."""
    published = {name.removeprefix(PREFIX) for name in reason_pb2.Reason.DESCRIPTOR.values_by_name}
    assert published - {"UNSPECIFIED"} == {reason.name for reason in errors.Reason}


def test_reasons_are_sent_by_name() -> None:
    """Proves that a reason's text on the wire is its name in the contract."""
    assert {reason.name: reason.value for reason in errors.Reason} == {
        reason.name: reason.name for reason in errors.Reason
    }
