"""Rules and results as JSON columns hold them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import setpoint_rules as rules


def rules_to_json(listed: Iterable[rules.Rule]) -> list[dict[str, Any]]:
    """Return rules as plain values."""
    return [rules.rule_to_json(rule) for rule in listed]


def rules_from_json(content: Sequence[dict[str, Any]]) -> tuple[rules.Rule, ...]:
    """Return the rules that were stored.

    Raises:
        InvalidArgumentError: A newer release stored a rule that this one does not know.
    """
    return tuple(rules.rule_from_json(each) for each in content)


def results_to_json(results: Iterable[rules.RuleResult]) -> list[dict[str, Any]]:
    """Return results as plain values."""
    return [
        {
            "rule_id": each.rule_id,
            "success": each.success,
            "severity": each.severity.value,
            "element_count": each.element_count,
            "unexpected_count": each.unexpected_count,
            "missing_count": each.missing_count,
            "observed": _to_number(each.observed),
            "failing_rows": each.failing_rows.tolist(),
            "message": each.message,
        }
        for each in results
    ]


def results_from_json(content: Iterable[dict[str, Any]]) -> tuple[rules.RuleResult, ...]:
    """Return the results that were stored."""
    return tuple(
        rules.RuleResult(
            rule_id=each["rule_id"],
            success=each["success"],
            severity=rules.Severity(each["severity"]),
            element_count=each["element_count"],
            unexpected_count=each["unexpected_count"],
            missing_count=each["missing_count"],
            observed=None if each["observed"] is None else float(each["observed"]),
            failing_rows=np.array(each["failing_rows"], np.int64),
            message=each["message"],
        )
        for each in content
    )


def _to_number(value: float | None) -> float | str | None:
    """Return a number; JSON has none for NaN and infinity, which become texts that `float` reads."""
    return value if value is None or math.isfinite(value) else str(value)
