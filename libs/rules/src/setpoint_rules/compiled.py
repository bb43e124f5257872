"""Rules made ready to judge batches and single rows."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_rules import batch, check
from setpoint_rules.check import Check
from setpoint_rules.result import RowFailure, RowVerdict, RuleResult
from setpoint_rules.rule import BatchRule, Exists, NotNull, RowRule, Rule, Severity
from setpoint_runtime import errors

MAX_RULES: Final = 1_000
"""Most rules that are compiled together."""

_FEW_ROWS: Final = 4
"""Up to this many rows plain Python judges values quicker than numpy."""

_MANY_ROWS: Final = 1_000
"""Up to this many rows columns are judged together quicker than one by one."""

_ID_LENGTH: Final = 64
_NO_ROWS: Final = np.empty(0, np.int64)
_NO_FAILURES: Final[MappingProxyType[int, Any]] = MappingProxyType({})


class _Group:
    """The row rules of one column, bound to each type that the column turns out to have."""

    __slots__ = ("_bound", "_bounds", "_fallible", "column", "rules")

    def __init__(self, column: str) -> None:
        self.column = column
        self.rules: dict[int, RowRule] = {}
        self._bound: dict[DataType, dict[int, Check]] = {}
        self._fallible: dict[DataType, list[tuple[int, Check, Any]]] = {}
        self._bounds: dict[DataType, tuple[float, float] | None] = {}

    def bound(self, dtype: DataType) -> dict[int, Check]:
        """Returns the checks for a column of a type by the index of their rule."""
        found = self._bound.get(dtype)
        if found is None:
            found = {index: check.bind(rule, dtype) for index, rule in self.rules.items()}
            self._bound[dtype] = found
        return found

    def fallible(self, dtype: DataType) -> list[tuple[int, Check, Any]]:
        """Returns index, check and predicate of those rules that such a column can break at all."""
        found = self._fallible.get(dtype)
        if found is None:
            bound = self.bound(dtype).items()
            found = [(index, each, each.test) for index, each in bound if not each.always_passes]
            self._fallible[dtype] = found
        return found

    def bounds(self, dtype: DataType) -> tuple[float, float] | None:
        """Returns between which numbers, themselves included, exactly those values lie that pass all rules.

        None when bounds alone do not tell.
        """
        try:
            return self._bounds[dtype]
        except KeyError:
            known = [each.bounds for _, each, _ in self.fallible(dtype)]
            bounds = [each for each in known if each is not None]
            found = None
            if bounds and len(bounds) == len(known):
                found = max(low for low, _ in bounds), min(high for _, high in bounds)
            self._bounds[dtype] = found
            return found


class CompiledRules:
    """Rules that were checked against each other and are ready to judge."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Wraps rules that have ids; use `compile`."""
        self.rules: tuple[Rule, ...] = tuple(rules)
        self._groups: dict[str, _Group] = {}
        for index, rule in enumerate(self.rules):
            if isinstance(rule, RowRule):
                column = rule.subject
                self._groups.setdefault(column, _Group(column)).rules[index] = rule

    @property
    def row_rules(self) -> tuple[RowRule, ...]:
        """The rules that run per request too."""
        return tuple(rule for rule in self.rules if isinstance(rule, RowRule))

    @property
    def batch_rules(self) -> tuple[BatchRule, ...]:
        """The rules that only a whole batch can keep or break."""
        return tuple(rule for rule in self.rules if isinstance(rule, BatchRule))

    def check_rows(self, columns: Columns) -> RowVerdict:
        """Judges each row by the row rules alone; `mostly` means nothing here.

        A rule about a column that is not there, or whose type it cannot judge, fails for every row.
        """
        failed: list[tuple[int, int]] = []
        by_name = columns.by_name
        few = columns.rows <= _FEW_ROWS
        within = self._within(by_name) if 1 < columns.rows <= _MANY_ROWS else ()
        for group in self._groups.values():
            if group.column in within:
                continue
            column = by_name.get(group.column)
            if column is None:
                failed += [(row, index) for row in range(columns.rows) for index in group.rules]
            elif few:
                checks = group.fallible(column.dtype)
                for row, value in enumerate(column.to_list()):
                    failed += [(row, index) for index, _, test in checks if not test(value)]
            else:
                for index, each, _ in group.fallible(column.dtype):
                    mask = _mask(each, column)
                    # Searching bytes is ten times as quick as numpy's all() for a few rows.
                    if b"\0" in mask.tobytes():
                        failed += [(row, index) for row in np.flatnonzero(~mask).tolist()]
        if not failed:
            return RowVerdict(columns.rows, _NO_FAILURES, _NO_FAILURES)
        return self._verdict(columns, failed)

    def _within(self, by_name: Mapping[str, Column]) -> Collection[str]:
        """Returns columns of floats that keep their rules in all rows, as one look at all of them tells."""
        names: list[str] = []
        tables: list[npt.NDArray[Any]] = []
        bounds: list[tuple[float, float]] = []
        for name, group in self._groups.items():
            column = by_name.get(name)
            if column is not None and column.validity is None:
                found = group.bounds(column.dtype)
                if found is not None:
                    names.append(name)
                    tables.append(column.values)
                    bounds.append(found)
        if not names:
            return ()
        table = np.concatenate(tables).reshape(len(names), -1)
        limits = np.array(bounds)
        inside = (table >= limits[:, :1]) & (table <= limits[:, 1:])
        if b"\0" not in inside.tobytes():
            return set(names)
        return {names[at] for at in np.flatnonzero(inside.all(axis=1)).tolist()}

    def evaluate(self, columns: Columns) -> list[RuleResult]:
        """Judges a batch by all rules; one result for each, in their order."""
        return [
            self._evaluate(index, rule, columns)
            if isinstance(rule, RowRule)
            else batch.evaluate(rule, columns)
            for index, rule in enumerate(self.rules)
        ]

    def _verdict(self, columns: Columns, failed: list[tuple[int, int]]) -> RowVerdict:
        rejections: dict[int, RowFailure] = {}
        flags: dict[int, list[RowFailure]] = {}
        for row, index in sorted(failed):
            rule = self.rules[index]
            if rule.severity is Severity.REJECT:
                if row not in rejections:
                    rejections[row] = self._failure(index, columns, row)
            else:
                flags.setdefault(row, []).append(self._failure(index, columns, row))
        return RowVerdict(
            columns.rows, rejections, {row: tuple(found) for row, found in flags.items()}
        )

    def _evaluate(self, index: int, rule: RowRule, columns: Columns) -> RuleResult:
        column = columns.get(rule.subject)
        bound = None if column is None else self._groups[rule.subject].bound(column.dtype)[index]
        if column is None or bound is None or bound.problem is not None:
            return self._result(index, columns, np.arange(columns.rows), 0, success=False)
        failing = np.flatnonzero(~_mask(bound, column))
        missing = 0 if isinstance(rule, NotNull) else column.null_count
        counted = columns.rows - missing
        mostly = getattr(rule, "mostly", 1.0)
        success = counted == 0 or (counted - len(failing)) / counted >= mostly
        return self._result(index, columns, failing, missing, success=success)

    def _result(
        self,
        index: int,
        columns: Columns,
        failing: npt.NDArray[np.int64],
        missing: int,
        *,
        success: bool,
    ) -> RuleResult:
        message = ""
        if not success:
            first = int(failing[0]) if len(failing) else None
            said = self._failure(index, columns, first).message
            message = f"{said}, {len(failing)} of {columns.rows} rows"
        return RuleResult(
            rule_id=self.rules[index].rule_id,
            success=success,
            severity=self.rules[index].severity,
            element_count=columns.rows,
            unexpected_count=len(failing),
            missing_count=missing,
            observed=None,
            failing_rows=failing if len(failing) else _NO_ROWS,
            message=message,
        )

    def _failure(self, index: int, columns: Columns, row: int | None) -> RowFailure:
        """Says why a row breaks a row rule; without a row, why the whole column does."""
        group = self._groups[self.rules[index].subject]
        rule = group.rules[index]
        column = columns.get(group.column)
        words = check.expectation(rule)
        if column is None:
            description = (
                "must exist" if isinstance(rule, Exists) else f"must exist, because it {words}"
            )
        elif row is None or group.bound(column.dtype)[index].problem is not None:
            description = f"type {column.dtype.name} {words}"
        else:
            shown = errors.invalid(group.column, column.item(row), words)
            description = shown.violations[0].description
        return RowFailure(rule.rule_id, rule.severity, group.column, description)


def compile(rules: Iterable[Rule]) -> CompiledRules:
    """Makes rules ready to judge and gives an id to each that has none.

    Raises:
        InvalidArgumentError: Two rules have one id, or there are too many rules.
    """
    listed = list(rules)
    if len(listed) > MAX_RULES:
        raise errors.invalid("rules", f"{len(listed)} rules", f"must be at most {MAX_RULES}")
    taken: set[str] = set()
    for index, rule in enumerate(listed):
        if rule.rule_id in taken:
            raise errors.invalid(f"rules[{index}].rule_id", rule.rule_id, "must be unique")
        if rule.rule_id:
            taken.add(rule.rule_id)
    named = []
    for rule in listed:
        if not rule.rule_id:
            rule = dataclasses.replace(rule, rule_id=_free_id(rule.label, taken))
            taken.add(rule.rule_id)
        named.append(rule)
    return CompiledRules(named)


def _free_id(label: str, taken: set[str]) -> str:
    number = 1
    free = label
    while free in taken:
        number += 1
        suffix = f"_{number}"
        free = label[: _ID_LENGTH - len(suffix)] + suffix
    return free


def _mask(bound: Check, column: Column) -> npt.NDArray[np.bool_]:
    """Returns which rows pass, nulls judged as the rule wants."""
    mask = bound.passes(column)
    if column.validity is None:
        return mask
    return mask | ~column.validity if bound.nulls_pass else mask & column.validity
