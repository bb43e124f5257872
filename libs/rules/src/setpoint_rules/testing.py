"""Hypothesis strategies for rules, for the tests of whatever judges data."""

from typing import Any

from hypothesis import strategies as st

from setpoint_columns import DataType
from setpoint_rules.rule import (
    BatchRule,
    Exists,
    InSet,
    MeanRange,
    NotInSet,
    NotNull,
    Range,
    Regex,
    RowCount,
    RowRule,
    Rule,
    Severity,
    Type,
    Unique,
)

COLUMNS = ("a", "b", "c")
"""The columns that drawn rules are about."""

_columns = st.sampled_from(COLUMNS)
_severities = st.sampled_from(Severity)
_mostly = st.floats(0.01, 1.0)
_bounds = st.integers(-3, 3) | st.floats(-3, 3) | st.floats(allow_nan=False, allow_infinity=False)

SETS: st.SearchStrategy[list[Any]] = st.one_of(
    st.lists(st.integers(-3, 3) | st.floats(-3, 3), min_size=1, max_size=4),
    st.lists(st.sampled_from(["", "a", "b", "é"]), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=2),
)
"""Sets of numbers, texts and flags."""

PATTERNS = st.sampled_from(["a", "^a", "b$", "^[ab]*$", "é", r"\d", "."])
"""Patterns that some short texts match."""


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Draws a range with one bound or two."""
    low = draw(st.none() | _bounds)
    high = draw(_bounds if low is None else st.none() | _bounds)
    if low is not None and high is not None and low > high:
        low, high = high, low
    strict = draw(st.tuples(st.booleans(), st.booleans()))
    if low == high:
        strict = (False, False)
    return Range(
        draw(_columns),
        low,
        high,
        *strict,
        mostly=draw(_mostly),
        severity=draw(_severities),
    )


@st.composite
def row_rules(draw: st.DrawFn) -> RowRule:
    """Draws any rule about rows."""
    column = draw(_columns)
    severity = draw(_severities)
    mostly = draw(_mostly)
    types = st.lists(st.sampled_from(list(DataType)), min_size=1, max_size=3)
    kinds: st.SearchStrategy[RowRule] = st.one_of(
        st.builds(Exists, st.just(column), severity=st.just(severity)),
        st.builds(Type, st.just(column), types, severity=st.just(severity)),
        st.just(NotNull(column, severity=severity, mostly=mostly)),
        ranges(),
        st.builds(InSet, st.just(column), SETS, mostly=st.just(mostly)),
        st.builds(NotInSet, st.just(column), SETS, severity=st.just(severity)),
        st.builds(Regex, st.just(column), PATTERNS, mostly=st.just(mostly)),
    )
    return draw(kinds)


@st.composite
def batch_rules(draw: st.DrawFn) -> BatchRule:
    """Draws any rule about whole batches."""
    columns = draw(st.lists(_columns, unique=True, min_size=1, max_size=3))
    low = draw(st.integers(0, 9))
    severity = draw(_severities)
    return draw(
        st.sampled_from(
            [
                Unique(columns, severity=severity),
                RowCount(low, low + 5, severity=severity),
                MeanRange(columns[0], -float(low), float(low), severity=severity),
            ]
        )
    )


rules: st.SearchStrategy[Rule] = row_rules() | batch_rules()
"""Any rule."""
