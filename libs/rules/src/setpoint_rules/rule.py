"""The rules: frozen values that are checked when they are made.

A definition that cannot mean anything (no bound at all, an empty set, a pattern that does not compile) is
an `InvalidArgumentError` that names the rule and its field, so that a bad suite never gets as far as
data. Bounds are doubles; a column of another numeric type is compared in its own type.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from setpoint_columns import MAX_NAME_LENGTH, DataType
from setpoint_rules import pattern as patterns
from setpoint_runtime import errors, names

MAX_SET_SIZE: Final = 10_000
"""Most values of one set: sets travel with every snapshot of the rules."""

_ID_LENGTH: Final = 64
_INT64: Final = range(-(1 << 63), 1 << 63)

SetValue = bool | int | float | str


class Severity(StrEnum):
    """What a rule that fails does."""

    REJECT = "REJECT"
    """The row or batch must not go on."""
    FLAG = "FLAG"
    """It goes on, flagged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What all rules have; use one of the subclasses."""

    KIND: ClassVar[str]

    rule_id: str = ""
    """Unique among the rules that are compiled together; empty: made of kind and column."""
    severity: Severity = Severity.REJECT

    @property
    def subject(self) -> str:
        """The column or columns that the rule is about; empty for the batch itself."""
        return str(getattr(self, "column", ""))

    @property
    def label(self) -> str:
        """The rule's id, or the one that compiling would make first."""
        if self.rule_id:
            return self.rule_id
        text = f"{self.KIND}_{self.subject}" if self.subject else self.KIND
        return re.sub(r"[^a-z0-9_-]", "_", text.lower())[:_ID_LENGTH]

    def __post_init__(self) -> None:
        """Checks the definition.

        Raises:
            InvalidArgumentError: Names the rule and the field.
        """
        if self.rule_id:
            names.check_name("rule_id", self.rule_id)
        if not isinstance(self.severity, Severity):
            raise self._invalid("severity", self.severity, "must be REJECT or FLAG")

    def _invalid(self, part: str, value: object, rule: str) -> errors.InvalidArgumentError:
        return errors.invalid(f"{self.label}.{part}", value, rule)

    def _check_column(self, column: str, part: str = "column") -> None:
        if not isinstance(column, str) or not 0 < len(column) <= MAX_NAME_LENGTH:
            raise self._invalid(
                part, column, f"must be a name of 1 to {MAX_NAME_LENGTH} characters"
            )

    def _checked_bound(self, part: str, bound: float | None) -> float | None:
        if bound is None:
            return None
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise self._invalid(part, bound, "must be a number")
        try:
            number = float(bound)
        except OverflowError:
            raise self._invalid(part, bound, "must be finite") from None
        if not math.isfinite(number):
            raise self._invalid(part, bound, "must be finite")
        return number

    def _check_bounds(self, low: float | None, high: float | None, *, strict: bool = False) -> None:
        if low is None and high is None:
            raise self._invalid("min", None, "must be set where max is not")
        if low is not None and high is not None:
            if low > high or (strict and low == high):
                least = "less than" if strict else "at most"
                raise self._invalid("min", low, f"must be {least} max, which is {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRule(Rule):
    """A rule that one row keeps or breaks by itself; it runs per request too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRule(Rule):
    """A rule that only a whole batch can keep or break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _MapRule(RowRule):
    """A row rule about values, of which a batch may have a share that fails."""

    mostly: float = 1.0
    """Share of the counted rows of a batch that must pass, in (0, 1]; per request it means nothing."""

    def __post_init__(self) -> None:
        super(_MapRule, self).__post_init__()
        mostly = self._checked_bound("mostly", self.mostly)
        if mostly is None or not 0 < mostly <= 1:
            raise self._invalid("mostly", self.mostly, "must be greater than 0 and at most 1")
        _set(self, "mostly", mostly)


def _set(rule: Rule, name: str, value: object) -> None:
    """Sets a field of a frozen rule to its normal form while it is being made."""
    object.__setattr__(rule, name, value)


@dataclass(frozen=True, slots=True)
class Exists(RowRule):
    """The column exists."""

    KIND: ClassVar[str] = "exists"

    column: str

    def __post_init__(self) -> None:
        super(Exists, self).__post_init__()
        self._check_column(self.column)


@dataclass(frozen=True, slots=True)
class Type(RowRule):
    """The column has one of some types."""

    KIND: ClassVar[str] = "type"

    column: str
    dtypes: Sequence[DataType]

    def __post_init__(self) -> None:
        super(Type, self).__post_init__()
        self._check_column(self.column)
        try:
            dtypes = tuple(sorted({DataType(dtype) for dtype in self.dtypes}))
        except (TypeError, ValueError):
            raise self._invalid("dtypes", self.dtypes, "must be known data types") from None
        if not dtypes:
            raise self._invalid("dtypes", self.dtypes, "must not be empty")
        _set(self, "dtypes", dtypes)


@dataclass(frozen=True, slots=True)
class NotNull(_MapRule):
    """No value is null, and none NaN; `mostly` counts all rows."""

    KIND: ClassVar[str] = "not_null"

    column: str

    def __post_init__(self) -> None:
        super(NotNull, self).__post_init__()
        self._check_column(self.column)


@dataclass(frozen=True, slots=True)
class Range(_MapRule):
    """Every number or timestamp lies between bounds, inclusive unless strict. NaN lies nowhere."""

    KIND: ClassVar[str] = "range"

    column: str
    min: float | None = None
    max: float | None = None
    strict_min: bool = False
    strict_max: bool = False

    def __post_init__(self) -> None:
        super(Range, self).__post_init__()
        self._check_column(self.column)
        _set(self, "min", self._checked_bound("min", self.min))
        _set(self, "max", self._checked_bound("max", self.max))
        self._check_bounds(self.min, self.max, strict=self.strict_min or self.strict_max)
        # A flag without its bound says nothing; dropping it gives equal rules equal content.
        _set(self, "strict_min", bool(self.strict_min) and self.min is not None)
        _set(self, "strict_max", bool(self.strict_max) and self.max is not None)


@dataclass(frozen=True, slots=True)
class _SetRule(_MapRule):
    column: str
    values: Sequence[SetValue]

    def __post_init__(self) -> None:
        super(_SetRule, self).__post_init__()
        self._check_column(self.column)
        if isinstance(self.values, str):
            raise self._invalid("values", self.values, "must be a sequence of values")
        values = tuple(dict.fromkeys(self.values))
        if not 0 < len(values) <= MAX_SET_SIZE:
            raise self._invalid("values", f"{len(values)} values", f"must be 1 to {MAX_SET_SIZE}")
        kinds = {_kind_of(value) for value in values}
        for index, value in enumerate(values):
            problem = _set_value_problem(value)
            if problem is not None:
                raise self._invalid(f"values[{index}]", value, problem)
        if len(kinds) > 1:
            raise self._invalid("values", sorted(kinds), "must be of one kind")
        _set(self, "values", values)


@dataclass(frozen=True, slots=True)
class InSet(_SetRule):
    """Every value is one of a set."""

    KIND: ClassVar[str] = "in_set"


@dataclass(frozen=True, slots=True)
class NotInSet(_SetRule):
    """No value is one of a set."""

    KIND: ClassVar[str] = "not_in_set"


@dataclass(frozen=True, slots=True)
class Regex(_MapRule):
    r"""In every text the pattern is found: `re.search`, not anchored; write ^ and $ to match all of it.

    Python syntax, Unicode classes, case matters unless the pattern begins with `(?i)`. `$` also matches
    before a newline at the end; `\Z` does not. Text longer than 2,000 characters fails unsearched.
    """

    KIND: ClassVar[str] = "regex"

    column: str
    pattern: str

    def __post_init__(self) -> None:
        super(Regex, self).__post_init__()
        self._check_column(self.column)
        if not isinstance(self.pattern, str):
            raise self._invalid("pattern", self.pattern, "must be text")
        problem = patterns.problem(self.pattern)
        if problem is not None:
            raise self._invalid("pattern", self.pattern, problem)


@dataclass(frozen=True, slots=True)
class Unique(BatchRule):
    """No value, or tuple of values, occurs twice; every member of a duplicate group fails.

    Rows in which all the columns are null are left out; a null beside a value counts as a value.
    """

    KIND: ClassVar[str] = "unique"

    columns: Sequence[str]

    @property
    def subject(self) -> str:
        """The columns, joined."""
        return "_".join(str(column) for column in self.columns)

    def __post_init__(self) -> None:
        super(Unique, self).__post_init__()
        if isinstance(self.columns, str):
            raise self._invalid("columns", self.columns, "must be a sequence of names")
        columns = tuple(self.columns)
        if not columns:
            raise self._invalid("columns", columns, "must not be empty")
        for index, column in enumerate(columns):
            self._check_column(column, f"columns[{index}]")
            if column in columns[:index]:
                raise self._invalid(f"columns[{index}]", column, "must be named once")
        _set(self, "columns", columns)


@dataclass(frozen=True, slots=True)
class RowCount(BatchRule):
    """The batch has a number of rows between bounds, inclusive."""

    KIND: ClassVar[str] = "row_count"

    min: int | None = None
    max: int | None = None

    def __post_init__(self) -> None:
        super(RowCount, self).__post_init__()
        for part, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int)):
                raise self._invalid(part, bound, "must be an integer")
            if bound is not None and bound not in range(1 << 63):
                raise self._invalid(part, bound, "must not be negative and must fit 64 bits")
        self._check_bounds(self.min, self.max)


@dataclass(frozen=True, slots=True)
class MeanRange(BatchRule):
    """The mean of the values that are not null lies between bounds, inclusive; no values is a failure."""

    KIND: ClassVar[str] = "mean_range"

    column: str
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        super(MeanRange, self).__post_init__()
        self._check_column(self.column)
        _set(self, "min", self._checked_bound("min", self.min))
        _set(self, "max", self._checked_bound("max", self.max))
        self._check_bounds(self.min, self.max)


KINDS: Final[dict[str, type[Rule]]] = {
    kind.KIND: kind
    for kind in (
        Exists,
        NotNull,
        Type,
        Range,
        InSet,
        NotInSet,
        Regex,
        Unique,
        RowCount,
        MeanRange,
    )
}
"""Every rule by its kind."""


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    return "text"


def _set_value_problem(value: Any) -> str | None:
    if not isinstance(value, bool | int | float | str):
        return "must be a flag, a number or text"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be finite"
    if isinstance(value, int) and value not in _INT64:
        return "must fit 64 bits"
    return None
