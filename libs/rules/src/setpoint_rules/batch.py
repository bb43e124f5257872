"""Rules that only a whole batch can keep or break."""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_rules.result import RuleResult
from setpoint_rules.rule import MeanRange, RowCount, Rule, Unique

_NO_ROWS: Final = np.empty(0, np.int64)
_WITH_MEAN: Final = frozenset(
    {DataType.BOOL, DataType.INT32, DataType.INT64, DataType.FLOAT32, DataType.FLOAT64}
)


def evaluate(rule: Rule, columns: Columns) -> RuleResult:
    """Judges a batch by one batch rule."""
    if isinstance(rule, Unique):
        return _evaluate_unique(rule, columns)
    if isinstance(rule, RowCount):
        return _evaluate_row_count(rule, columns)
    if isinstance(rule, MeanRange):
        return _evaluate_mean_range(rule, columns)
    raise TypeError(f"{type(rule).__name__} is no batch rule")


def _evaluate_unique(rule: Unique, columns: Columns) -> RuleResult:
    for name in rule.columns:
        if name not in columns:
            return _broken(rule, columns, f"{name}: must exist, because it must be unique")
    keys = [columns[name] for name in rule.columns]
    absent = _all_null(keys)
    codes = _tuple_codes(keys)
    counts = np.bincount(codes[~absent]) if columns.rows else _NO_ROWS
    repeated = ~absent
    repeated[repeated] = counts[codes[repeated]] > 1
    failing = np.flatnonzero(repeated)
    message = ""
    if len(failing):
        first = {name: columns[name].item(int(failing[0])) for name in rule.columns}
        shown = ", ".join(f"{name}={value!r}" for name, value in first.items())
        message = (
            f"{', '.join(rule.columns)}: {shown[:200]} must be unique (rule {rule.rule_id}),"
            f" {len(failing)} of {columns.rows} rows"
        )
    return _result(rule, columns, message, failing=failing, missing=int(absent.sum()))


def _all_null(keys: list[Column]) -> npt.NDArray[np.bool_]:
    absent = np.ones(keys[0].rows, np.bool_)
    for key in keys:
        mask = key.null_mask()
        absent &= False if mask is None else mask
    return absent


def _tuple_codes(keys: list[Column]) -> npt.NDArray[np.int64]:
    """Numbers the distinct tuples of values; equal tuples have one number, below the row count."""
    codes = np.zeros(keys[0].rows, np.int64)
    for key in keys:
        own = _codes(key)
        width = int(own.max(initial=0)) + 1
        # Numbered anew for each column, the product stays below the square of the row count.
        codes = np.unique(codes * width + own, return_inverse=True)[1].astype(np.int64)
    return codes


def _codes(key: Column) -> npt.NDArray[np.int64]:
    """Numbers the distinct values of a column from 1 on; null is 0, and NaN equals NaN."""
    if key.dtype is DataType.STRING:
        known: dict[Any, int] = {None: 0}
        listed = [known.setdefault(value, len(known)) for value in key.to_list()]
        return np.array(listed, np.int64)
    codes = np.unique(key.values, return_inverse=True)[1].astype(np.int64) + 1
    if key.validity is not None:
        codes[~key.validity] = 0
    return codes


def _evaluate_row_count(rule: RowCount, columns: Columns) -> RuleResult:
    rows = columns.rows
    holds = (rule.min is None or rows >= rule.min) and (rule.max is None or rows <= rule.max)
    message = "" if holds else f"{rows} rows, must be {_between(rule)} (rule {rule.rule_id})"
    return _result(rule, columns, message, observed=float(rows))


def _evaluate_mean_range(rule: MeanRange, columns: Columns) -> RuleResult:
    column = columns.get(rule.column)
    if column is None:
        return _broken(rule, columns, f"{rule.column}: must exist, because it must have a mean")
    if column.dtype not in _WITH_MEAN:
        return _broken(rule, columns, f"{rule.column}: type {column.dtype.name} has no mean")
    values = column.values if column.validity is None else column.values[column.validity]
    mean = _mean(values)
    holds = mean is not None and not math.isnan(mean) and _is_between(rule, mean)
    message = ""
    if not holds:
        message = f"{rule.column}: mean {mean} must be {_between(rule)} (rule {rule.rule_id})"
    return _result(rule, columns, message, observed=mean, missing=column.null_count)


def _mean(values: npt.NDArray[Any]) -> float | None:
    if len(values) == 0:
        return None
    with np.errstate(all="ignore"):
        return float(values.mean(dtype=np.float64))


def _is_between(rule: MeanRange, mean: float) -> bool:
    return (rule.min is None or mean >= rule.min) and (rule.max is None or mean <= rule.max)


def _between(rule: MeanRange | RowCount) -> str:
    parts = [] if rule.min is None else [f"at least {rule.min!r}"]
    return " and ".join(parts if rule.max is None else [*parts, f"at most {rule.max!r}"])


def _broken(rule: Rule, columns: Columns, text: str) -> RuleResult:
    """Returns the result of a rule that the batch's columns do not allow to judge."""
    failing = np.arange(columns.rows) if isinstance(rule, Unique) else _NO_ROWS
    return _result(rule, columns, f"{text} (rule {rule.rule_id})", failing=failing)


def _result(
    rule: Rule,
    columns: Columns,
    message: str,
    *,
    failing: npt.NDArray[np.int64] = _NO_ROWS,
    missing: int = 0,
    observed: float | None = None,
) -> RuleResult:
    return RuleResult(
        rule_id=rule.rule_id,
        success=not message,
        severity=rule.severity,
        element_count=columns.rows,
        unexpected_count=len(failing),
        missing_count=missing,
        observed=observed,
        failing_rows=failing,
        message=message,
    )
