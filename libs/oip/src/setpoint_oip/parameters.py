"""Parameters: what the protocol has no field for."""

from collections.abc import Mapping
from typing import Any, Final

from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_runtime import errors

PREFIX: Final = "setpoint_"
"""Begins the name of every parameter, and of every output, that this platform adds."""

Value = bool | int | float | str

WHOLE: Final[frozenset[type]] = frozenset({int})
TEXT: Final[frozenset[type]] = frozenset({str})
ANY: Final[frozenset[type]] = frozenset({bool, int, float, str})

_INT64: Final = range(-(1 << 63), 1 << 63)


def message(value: Value) -> pb.InferParameter:
    """Return the message of a value."""
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        if value in _INT64:
            return pb.InferParameter(int64_param=value)
        return pb.InferParameter(uint64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(string_param=value)


def fill(target: Any, values: Mapping[str, Value]) -> None:
    """Write values into the parameters of a message."""
    for name, value in values.items():
        target[name].CopyFrom(message(value))


def read(given: Mapping[str, pb.InferParameter]) -> dict[str, Value | None]:
    """Return the values of parameters; None for one without a choice."""
    found: dict[str, Value | None] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(parameter, kind)
    return found


def ours(
    given: Mapping[str, pb.InferParameter], kinds: Mapping[str, frozenset[type]]
) -> dict[str, Value]:
    """Return the parameters under our prefix, without it; those of others are left alone.

    Args:
        given: The parameters of a request.
        kinds: Types by the name without the prefix. A name that ends in `_` stands for every name
            that begins with it.

    Raises:
        InvalidArgumentError: A name is unknown, or its value is of another type.
    """
    found: dict[str, Value] = {}
    for name, value in read(given).items():
        if not name.startswith(PREFIX):
            continue
        short, path = name.removeprefix(PREFIX), f'parameters["{name[:100]}"]'
        wanted = _wanted(short, kinds)
        if wanted is None:
            rule = (
                f"is not known; there are: {', '.join(PREFIX + each for each in kinds) or 'none'}"
            )
            raise errors.invalid(path, name, rule, errors.Reason.UNKNOWN_FIELD)
        if value is None or type(value) not in wanted:
            rule = f"must be of the type {' or '.join(sorted(each.__name__ for each in wanted))}"
            raise errors.invalid(path, value, rule, errors.Reason.WRONG_TYPE)
        found[short] = value
    return found


def _wanted(short: str, kinds: Mapping[str, frozenset[type]]) -> frozenset[type] | None:
    for name, wanted in kinds.items():
        if short == name and not name.endswith("_"):
            return wanted
        if short != name and name.endswith("_") and short.startswith(name):
            return wanted
    return None
