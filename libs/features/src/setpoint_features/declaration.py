"""A plain Python function as a transformation: what it declares, and how a feature set finds it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

from setpoint_columns import DataType
from setpoint_features import source
from setpoint_runtime import errors

NotFinite = Literal["null", "refuse", "keep"]
"""What becomes of NaN and infinity in a result."""

_ATTRIBUTE = "__setpoint_transformation__"
_NOT_FINITE = ("null", "refuse", "keep")
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Transformation:
    """A function that makes one column of others, one value of each row from that row alone."""

    call: Callable[..., Any]
    dtype: DataType
    """Type of the column it makes."""
    takes_nulls: bool
    """Whether it is told of nulls; otherwise it sees complete rows alone."""
    not_finite: NotFinite

    @property
    def name(self) -> str:
        """How feature sets name it: `module:function`."""
        return f"{self.call.__module__}:{self.call.__qualname__}"

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of its inputs, in the order in which it takes them."""
        return tuple(inspect.signature(self.call).parameters)

    @cached_property
    def source(self) -> str:
        """Its source, as people wrote it."""
        return source.text(self.call)

    @cached_property
    def source_hash(self) -> str:
        """Hash of all that decides on its results: see `setpoint_features.source`."""
        declared = (self.dtype.name, str(self.takes_nulls), self.not_finite)
        return source.fingerprint(self.call, declared)


def transformation(
    dtype: DataType, *, takes_nulls: bool = False, not_finite: NotFinite = "null"
) -> Callable[[_FunctionT], _FunctionT]:
    """Declares a function of a module to be a transformation; the function itself stays as it is.

    It gets one numpy array for each parameter and returns one of the same length. Each value may depend on
    the values of its own row alone: rows of different callers come together, and in other company each time.

    Args:
        dtype: Type of its result.
        takes_nulls: False: it sees the rows without nulls alone, and the others are null. True: it gets masked
            arrays (`numpy.ma`) with nulls masked, and what it masks is null.
        not_finite: What becomes of NaN and infinity: "null" serves null (status MISSING), "refuse" is an error,
            "keep" serves them.

    Example:
        ```python
        @transformation(DataType.FLOAT64)
        def speed(distance, minutes):
            return distance / (minutes / 60)
        ```

    Raises:
        InvalidArgumentError: The function is none that could be found again by its name and told by its source.
    """

    def declare(function: _FunctionT) -> _FunctionT:
        _check(function, dtype, not_finite)
        made = Transformation(function, DataType(dtype), takes_nulls, not_finite)
        setattr(function, _ATTRIBUTE, made)
        return function

    return declare


def of(function: object) -> Transformation | None:
    """Returns what a function declares, None when it is no transformation."""
    found = getattr(function, _ATTRIBUTE, None)
    return found if isinstance(found, Transformation) else None


def _check(function: Callable[..., Any], dtype: DataType, not_finite: str) -> None:
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise errors.invalid("function", repr(function), "must be a plain function")
    if function.__qualname__ != function.__name__ or function.__name__ == "<lambda>":
        rule = "must be defined at the top of a module, so that others find it by its name"
        raise errors.invalid("function", function.__qualname__, rule)
    if dtype not in DataType.__members__.values():
        raise errors.invalid("dtype", dtype, "must be a DataType", errors.Reason.WRONG_TYPE)
    if not_finite not in _NOT_FINITE:
        raise errors.invalid("not_finite", not_finite, f"must be one of {', '.join(_NOT_FINITE)}")
    parameters = inspect.signature(function).parameters.values()
    for each in parameters:
        is_plain = each.kind is each.POSITIONAL_OR_KEYWORD and each.default is each.empty
        if not is_plain:
            rule = "must be a plain parameter without a default: each one is a column"
            raise errors.invalid(f"{function.__name__}({each.name})", str(each), rule)
    if not parameters:
        raise errors.invalid(function.__name__, "()", "must take at least one column")
