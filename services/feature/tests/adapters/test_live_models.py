import pytest

from setpoint.registry.v1 import model_pb2
from setpoint_feature.adapters import live_models

PENDING, APPROVED, REJECTED = (
    model_pb2.APPROVAL_STATE_PENDING,
    model_pb2.APPROVAL_STATE_APPROVED,
    model_pb2.APPROVAL_STATE_REJECTED,
)


@pytest.mark.parametrize(
    ("states", "aliases", "live"),
    [
        ([APPROVED], {}, [1]),
        ([PENDING, REJECTED], {}, []),
        ([APPROVED, APPROVED], {"champion": 2}, [2]),
        ([APPROVED, APPROVED], {"champion": 1}, [1, 2]),
        ([APPROVED, APPROVED, APPROVED], {"champion": 3, "old": 2}, [2, 3]),
        ([APPROVED, APPROVED, REJECTED], {"champion": 1, "challenger": 3}, [1, 2]),
    ],
    ids=["no alias", "not approved", "retired", "candidate", "two aliases", "rejected"],
)
def test_is_live(states: list[int], aliases: dict[str, int], live: list[int]) -> None:
    """Approved versions with an alias, newer than one, or of a model without any; others have no say."""
    versions = [
        model_pb2.ModelVersion(version=number, approval_state=state)  # type: ignore[arg-type]  # one of the enum.
        for number, state in enumerate(states, 1)
    ]

    assert [each.version for each in versions if live_models.is_live(each, aliases)] == live
