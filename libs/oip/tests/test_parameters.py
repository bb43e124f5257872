"""Parameters of ours are checked, those of others are left alone."""

import pytest

from setpoint_oip import parameters
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_runtime import errors

KINDS = {"event_time": parameters.WHOLE, "key": parameters.TEXT, "entity_": parameters.ANY}


def request(**values: parameters.Value) -> pb.ModelInferRequest:
    """Makes a request with parameters."""
    made = pb.ModelInferRequest()
    parameters.fill(made.parameters, values)
    return made


def test_own_parameters_are_read() -> None:
    """Proves that our parameters come without their prefix, and others' not at all."""
    made = request(setpoint_event_time=5, setpoint_entity_depot="A", priority=1, timeout=2)
    assert parameters.ours(made.parameters, KINDS) == {"event_time": 5, "entity_depot": "A"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"setpoint_assigment_key": "a"}, "is not known; there are: setpoint_event_time"),
        ({"setpoint_entity_": "a"}, "is not known"),
        ({"setpoint_event_time": True}, "True must be of the type int"),
        ({"setpoint_key": 1}, "1 must be of the type str"),
    ],
)
def test_wrong_parameters_are_refused(values: dict[str, parameters.Value], said: str) -> None:
    """Proves that a misspelt name of ours and a value of another type are errors."""
    with pytest.raises(errors.InvalidArgumentError, match=said):
        parameters.ours(request(**values).parameters, KINDS)


def test_parameter_without_value_is_refused() -> None:
    """Proves that an empty parameter of ours is an error."""
    made = pb.ModelInferRequest()
    made.parameters["setpoint_key"].SetInParent()
    with pytest.raises(errors.InvalidArgumentError, match="None must be of the type str"):
        parameters.ours(made.parameters, KINDS)
