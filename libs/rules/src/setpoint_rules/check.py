"""Row rules bound to the type of a column: one predicate for a value, one for a whole array.

Both say the same, which a property test holds. Single values are judged in plain Python, because for the
few rows of a request numpy's call overhead would be most of the time.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, DataType
from setpoint_rules import pattern as patterns
from setpoint_rules.rule import Exists, InSet, NotInSet, NotNull, Range, Regex, RowRule, Type

Mask = npt.NDArray[np.bool_]

_FLOATS: Final = frozenset({DataType.FLOAT32, DataType.FLOAT64})
_NUMBERS: Final = frozenset({DataType.INT32, DataType.INT64, DataType.TIMESTAMP}) | _FLOATS
_FEW: Final = 1_000
"""Up to this many rows a Python set is quicker than numpy's sorting."""
_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Check:
    """A row rule over a column of one type."""

    test: Callable[[Any], bool]
    """Whether a Python value, or None for null, passes."""
    passes: Callable[[Column], Mask]
    """Which values of a column pass; what it says about a null is overruled by `nulls_pass`."""
    nulls_pass: bool = True
    bounds: tuple[float, float] | None = None
    """Between which numbers, themselves included, exactly the passing values of a column of floats
    lie; None where bounds alone do not tell."""
    problem: str | None = None
    """Why no row of such a column can pass, whatever its values; None where values decide."""

    @property
    def always_passes(self) -> bool:
        """Whether no row of such a column can fail."""
        return self.test is _always


def bind(rule: RowRule, dtype: DataType) -> Check:
    """Returns the check of a rule for columns of one type."""
    binder: Any = _BINDERS[type(rule)]
    check: Check = binder(rule, dtype)
    return check


def expectation(rule: RowRule) -> str:
    """Returns what a rule expects, in words that follow a value."""
    words: Any = _WORDS[type(rule)]
    text: str = words(rule)
    return text


def _always(value: Any) -> bool:
    return True


def _never(value: Any) -> bool:
    return False


def _all(column: Column) -> Mask:
    return np.ones(column.rows, np.bool_)


def _none(column: Column) -> Mask:
    return np.zeros(column.rows, np.bool_)


def _impossible(problem: str) -> Check:
    return Check(_never, _none, nulls_pass=False, problem=problem)


_TRUE: Final = Check(_always, _all)


def _bind_exists(rule: Exists, dtype: DataType) -> Check:
    return _TRUE


def _bind_type(rule: Type, dtype: DataType) -> Check:
    return _TRUE if dtype in rule.dtypes else _impossible(dtype.name)


def _bind_not_null(rule: NotNull, dtype: DataType) -> Check:
    if dtype in _FLOATS:
        everything = -math.inf, math.inf
        return Check(_is_number, _are_numbers, nulls_pass=False, bounds=everything)
    return Check(_is_present, _all, nulls_pass=False)


def _is_present(value: Any) -> bool:
    return value is not None


def _is_number(value: Any) -> bool:
    return value is not None and value == value


def _are_numbers(column: Column) -> Mask:
    numbers: Mask = column.values == column.values
    return numbers


def _bind_range(rule: Range, dtype: DataType) -> Check:
    if dtype not in _NUMBERS:
        return _impossible(dtype.name)
    if dtype in _FLOATS:
        low, high = _float_bounds(rule, dtype)
        least = math.nextafter(low, math.inf) if rule.strict_min else low
        most = math.nextafter(high, -math.inf) if rule.strict_max else high
        # Of the column's own type, which the bounds have been rounded to: a wider one costs a conversion.
        scalar = np.float32 if dtype is DataType.FLOAT32 else np.float64
        compared = _compare(low, high, rule.strict_min, rule.strict_max, scalar)
        return replace(compared, bounds=(least, most))
    # Integers are compared as integers: as doubles, large neighbours would be one number.
    # The scalars are of numpy's widest type, lest a bound be cast to the column's narrower one.
    return _compare(*_integer_bounds(rule), strict_min=False, strict_max=False, scalar=np.int64)


def _float_bounds(rule: Range, dtype: DataType) -> tuple[float, float]:
    """Returns bounds rounded to the column's type: a stored 0.1 shall be within a maximum of 0.1."""
    low = -math.inf if rule.min is None else rule.min
    high = math.inf if rule.max is None else rule.max
    if dtype is DataType.FLOAT32:
        with np.errstate(over="ignore"):
            return float(np.float32(low)), float(np.float32(high))
    return low, high


def _integer_bounds(rule: Range) -> tuple[int, int]:
    """Returns inclusive integer bounds; an empty range has a lower bound above the upper one."""
    low, high = _INT64_MIN, _INT64_MAX
    if rule.min is not None:
        low = math.floor(rule.min) + 1 if rule.strict_min else math.ceil(rule.min)
    if rule.max is not None:
        high = math.ceil(rule.max) - 1 if rule.strict_max else math.floor(rule.max)
    if low > _INT64_MAX or high < _INT64_MIN:
        return 1, 0
    return max(low, _INT64_MIN), min(high, _INT64_MAX)


def _compare(low: float, high: float, strict_min: bool, strict_max: bool, scalar: Any) -> Check:
    above: Any = np.greater if strict_min else np.greater_equal
    below: Any = np.less if strict_max else np.less_equal

    def passes(column: Column) -> Mask:
        values = column.values
        mask: Mask = above(values, least) & below(values, greatest)
        return mask

    least, greatest = scalar(low), scalar(high)
    if strict_min and strict_max:
        return Check(lambda value: value is None or low < value < high, passes)
    if strict_min:
        return Check(lambda value: value is None or low < value <= high, passes)
    if strict_max:
        return Check(lambda value: value is None or low <= value < high, passes)
    return Check(lambda value: value is None or low <= value <= high, passes)


def _bind_set(rule: InSet | NotInSet, dtype: DataType) -> Check:
    members = _members(rule, dtype)
    if members is None:
        return _impossible(dtype.name)
    wanted = isinstance(rule, InSet)
    if wanted:
        test = lambda value: value is None or value in members  # noqa: E731 - a predicate as the others
    else:
        test = lambda value: value not in members  # noqa: E731 - None is in no set
    if dtype in (DataType.STRING, DataType.BOOL):
        return Check(test, lambda column: _each(column, lambda value: (value in members) is wanted))
    array = _member_array(members, dtype)

    def passes(column: Column) -> Mask:
        if column.rows <= _FEW:
            return _each(column, lambda value: (value in members) is wanted)
        return np.isin(column.values, array, invert=not wanted)

    return Check(test, passes)


def _members(rule: InSet | NotInSet, dtype: DataType) -> frozenset[Any] | None:
    """Returns the values of a set in a column's type, or None when they are of another kind.

    A value that the type cannot hold is left out: no value of the column equals it.
    """
    first = rule.values[0]
    if isinstance(first, str):
        return frozenset(rule.values) if dtype is DataType.STRING else None
    if isinstance(first, bool):
        return frozenset(rule.values) if dtype is DataType.BOOL else None
    if dtype not in _NUMBERS:
        return None
    numbers: list[Any] = list(rule.values)
    if dtype is DataType.FLOAT32:
        # Rounded as bounds are, so that a stored 0.1 is in a set with 0.1.
        with np.errstate(over="ignore"):
            rounded = [float(np.float32(number)) for number in numbers]
        return frozenset(number for number in rounded if math.isfinite(number))
    if dtype is DataType.FLOAT64:
        return frozenset(float(number) for number in numbers if float(number) == number)
    return frozenset(int(number) for number in numbers if int(number) == number)


def _member_array(members: frozenset[Any], dtype: DataType) -> npt.NDArray[Any]:
    if dtype in _FLOATS:
        return np.array(sorted(members), np.float64)
    return np.array(
        [each for each in sorted(members) if _INT64_MIN <= each <= _INT64_MAX], np.int64
    )


def _bind_regex(rule: Regex, dtype: DataType) -> Check:
    if dtype is not DataType.STRING:
        return _impossible(dtype.name)
    search = re.compile(rule.pattern).search
    limit = patterns.MAX_TEXT_LENGTH

    def found(text: str) -> bool:
        return len(text) <= limit and search(text) is not None

    return Check(
        lambda value: value is None or (len(value) <= limit and search(value) is not None),
        lambda column: _each(column, found),
    )


def _each(column: Column, judge: Callable[[Any], bool]) -> Mask:
    """Judges each distinct value once: columns of text mostly repeat a few."""
    values = column.to_list()
    good = {value for value in set(values) if value is not None and judge(value)}
    return np.fromiter([value in good for value in values], np.bool_, column.rows)


_BINDERS: Final[dict[type[RowRule], Any]] = {
    Exists: _bind_exists,
    Type: _bind_type,
    NotNull: _bind_not_null,
    Range: _bind_range,
    InSet: _bind_set,
    NotInSet: _bind_set,
    Regex: _bind_regex,
}


def _range_words(rule: Range) -> str:
    parts = []
    if rule.min is not None:
        parts.append(f"{'greater than' if rule.strict_min else 'at least'} {rule.min!r}")
    if rule.max is not None:
        parts.append(f"{'less than' if rule.strict_max else 'at most'} {rule.max!r}")
    return "must be " + " and ".join(parts)


def _set_words(rule: InSet | NotInSet) -> str:
    shown = ", ".join(repr(value) for value in rule.values[:5])
    more = f", … ({len(rule.values)} in all)" if len(rule.values) > 5 else ""
    return f"must {'' if isinstance(rule, InSet) else 'not '}be one of {shown}{more}"


_WORDS: Final[dict[type[RowRule], Any]] = {
    Exists: lambda rule: "must exist",
    Type: lambda rule: "must be of type " + " or ".join(dtype.name for dtype in rule.dtypes),
    NotNull: lambda rule: "must be known",
    Range: _range_words,
    InSet: _set_words,
    NotInSet: _set_words,
    Regex: lambda rule: f"must have a match of {rule.pattern!r}",
}
