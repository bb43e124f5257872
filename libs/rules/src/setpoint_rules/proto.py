"""Rules and results to and from the messages of `setpoint.validation.v1`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from setpoint.common.v1 import value_pb2
from setpoint.validation.v1 import suite_pb2
from setpoint_columns import proto as columns_proto
from setpoint_columns import value as values
from setpoint_rules.result import RuleResult
from setpoint_rules.rule import (
    Exists,
    InSet,
    MeanRange,
    NotInSet,
    NotNull,
    Range,
    Regex,
    RowCount,
    Rule,
    Severity,
    Type,
    Unique,
)
from setpoint_runtime import errors

MAX_FAILING_ROWS: Final = 1_000
"""Most indices of failing rows in one message; the counts stay exact."""

_SEVERITIES: Final = {
    suite_pb2.SEVERITY_UNSPECIFIED: Severity.REJECT,
    suite_pb2.SEVERITY_REJECT: Severity.REJECT,
    suite_pb2.SEVERITY_FLAG: Severity.FLAG,
}
_SEVERITY_NUMBERS: Final = {
    Severity.REJECT: suite_pb2.SEVERITY_REJECT,
    Severity.FLAG: suite_pb2.SEVERITY_FLAG,
}
_WITH_MOSTLY: Final = frozenset({"not_null", "range", "set", "regex"})


def rules_from_proto(messages: Iterable[suite_pb2.Rule], field: str = "suite.rules") -> list[Rule]:
    """Returns the rules of untrusted messages.

    Raises:
        InvalidArgumentError: Names the rule, its field, the value and what is wrong.
    """
    return [rule_from_proto(message, f"{field}[{index}]") for index, message in enumerate(messages)]


def rule_from_proto(message: suite_pb2.Rule, field: str = "rule") -> Rule:
    """Returns the rule of an untrusted message.

    Raises:
        InvalidArgumentError: Names the rule, its field, the value and what is wrong.
    """
    kind = message.WhichOneof("kind")
    if kind is None:
        raise errors.invalid(field, None, "must have a kind", errors.Reason.MISSING_FIELD)
    severity = _SEVERITIES.get(message.severity)
    if severity is None:
        raise errors.invalid(f"{field}.severity", message.severity, "must be a known severity")
    common: dict[str, Any] = {"rule_id": message.rule_id, "severity": severity}
    if message.HasField("mostly"):
        if kind not in _WITH_MOSTLY:
            raise errors.invalid(f"{field}.mostly", message.mostly, f"must be absent for {kind}")
        common["mostly"] = message.mostly
    try:
        return _FROM_PROTO[kind](getattr(message, kind), common, f"{field}.{kind}")
    except errors.InvalidArgumentError as error:
        raise _placed(error, field) from None


def rules_to_proto(rules: Iterable[Rule]) -> list[suite_pb2.Rule]:
    """Returns the messages for rules."""
    return [rule_to_proto(rule) for rule in rules]


def rule_to_proto(rule: Rule) -> suite_pb2.Rule:
    """Returns the message for a rule."""
    message = suite_pb2.Rule(rule_id=rule.rule_id, severity=_SEVERITY_NUMBERS[rule.severity])
    mostly = getattr(rule, "mostly", 1.0)
    if mostly != 1.0:
        message.mostly = mostly
    _TO_PROTO[type(rule)](rule, message)
    return message


def result_to_proto(result: RuleResult) -> suite_pb2.RuleResult:
    """Returns the message for a result, with the first 1,000 failing rows."""
    return suite_pb2.RuleResult(
        rule_id=result.rule_id,
        success=result.success,
        severity=_SEVERITY_NUMBERS[result.severity],
        element_count=result.element_count,
        unexpected_count=result.unexpected_count,
        missing_count=result.missing_count,
        failing_rows=result.failing_rows[:MAX_FAILING_ROWS].tolist(),
        observed_value=result.observed,
        message=result.message,
    )


def _placed(error: errors.InvalidArgumentError, field: str) -> errors.InvalidArgumentError:
    """Returns an error about a rule's definition with the path of the rule in the request."""
    inner = error.metadata.get("field", "")
    if inner.startswith(f"{field}."):
        return error
    path = f"{field}.{inner}"
    violations = [errors.FieldViolation(path, each.description) for each in error.violations]
    return errors.InvalidArgumentError(
        error.reason, f"{field}.{error.message}", violations=violations, metadata={"field": path}
    )


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _bounds(message: Any) -> dict[str, Any]:
    return {"min": _optional(message, "min"), "max": _optional(message, "max")}


def _type_from_proto(message: suite_pb2.TypeRule, common: dict[str, Any], field: str) -> Rule:
    numbers: Sequence[int] = message.dtypes
    dtypes = [
        columns_proto.data_type_from_proto(number, f"{field}.dtypes[{index}]")
        for index, number in enumerate(numbers)
    ]
    return Type(message.column, dtypes, **common)


def _range_from_proto(message: suite_pb2.RangeRule, common: dict[str, Any], field: str) -> Rule:
    return Range(
        message.column,
        **_bounds(message),
        strict_min=message.strict_min,
        strict_max=message.strict_max,
        **common,
    )


def _set_from_proto(message: suite_pb2.SetRule, common: dict[str, Any], field: str) -> Rule:
    kind = NotInSet if message.negate else InSet
    members = [
        values.from_proto(each, f"{field}.values[{index}]")
        for index, each in enumerate(message.values)
    ]
    return kind(message.column, members, **common)


_FROM_PROTO: Final[dict[str, Callable[[Any, dict[str, Any], str], Rule]]] = {
    "exists": lambda message, common, _: Exists(message.column, **common),
    "not_null": lambda message, common, _: NotNull(message.column, **common),
    "type": _type_from_proto,
    "range": _range_from_proto,
    "set": _set_from_proto,
    "regex": lambda message, common, _: Regex(message.column, message.pattern, **common),
    "unique": lambda message, common, _: Unique(list(message.columns), **common),
    "row_count": lambda message, common, _: RowCount(**_bounds(message), **common),
    "mean_range": lambda message, common, _: MeanRange(
        message.column, **_bounds(message), **common
    ),
}


def _type_to_proto(rule: Type, message: suite_pb2.Rule) -> None:
    numbers: list[Any] = [dtype.value for dtype in rule.dtypes]
    message.type.CopyFrom(suite_pb2.TypeRule(column=rule.column, dtypes=numbers))


def _range_to_proto(rule: Range, message: suite_pb2.Rule) -> None:
    message.range.CopyFrom(
        suite_pb2.RangeRule(
            column=rule.column,
            min=rule.min,
            max=rule.max,
            strict_min=rule.strict_min,
            strict_max=rule.strict_max,
        )
    )


def _set_to_proto(rule: InSet | NotInSet, message: suite_pb2.Rule) -> None:
    members: list[value_pb2.Value] = [values.to_proto(each) for each in rule.values]
    message.set.CopyFrom(
        suite_pb2.SetRule(column=rule.column, values=members, negate=isinstance(rule, NotInSet))
    )


_TO_PROTO: Final[dict[type[Rule], Callable[[Any, suite_pb2.Rule], None]]] = {
    Exists: lambda rule, message: message.exists.CopyFrom(suite_pb2.ExistsRule(column=rule.column)),
    NotNull: lambda rule, message: message.not_null.CopyFrom(
        suite_pb2.NotNullRule(column=rule.column)
    ),
    Type: _type_to_proto,
    Range: _range_to_proto,
    InSet: _set_to_proto,
    NotInSet: _set_to_proto,
    Regex: lambda rule, message: message.regex.CopyFrom(
        suite_pb2.RegexRule(column=rule.column, pattern=rule.pattern)
    ),
    Unique: lambda rule, message: message.unique.CopyFrom(
        suite_pb2.UniqueRule(columns=rule.columns)
    ),
    RowCount: lambda rule, message: message.row_count.CopyFrom(
        suite_pb2.RowCountRule(min=rule.min, max=rule.max)
    ),
    MeanRange: lambda rule, message: message.mean_range.CopyFrom(
        suite_pb2.MeanRangeRule(column=rule.column, min=rule.min, max=rule.max)
    ),
}
