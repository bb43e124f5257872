"""Rules that data must keep, judged by one set of definitions in two places.

A rule is a frozen value. `compile` turns a list of them into `CompiledRules`, which judge a whole batch
(`evaluate`: shares, duplicates, means) and single rows (`check_rows`: pass or fail, in microseconds, for
requests that are being served). Rules about rows mean the same in both; rules about batches run in
`evaluate` alone. Nothing here knows of gRPC; `setpoint_rules.proto` converts the contract's messages.
"""

from setpoint_rules.canonical import content_hash, rule_from_json, rule_to_json
from setpoint_rules.compiled import CompiledRules, compile
from setpoint_rules.result import RowFailure, RowVerdict, RuleResult
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

__all__ = [
    "BatchRule",
    "CompiledRules",
    "Exists",
    "InSet",
    "MeanRange",
    "NotInSet",
    "NotNull",
    "Range",
    "Regex",
    "RowCount",
    "RowFailure",
    "RowRule",
    "RowVerdict",
    "Rule",
    "RuleResult",
    "Severity",
    "Type",
    "Unique",
    "compile",
    "content_hash",
    "rule_from_json",
    "rule_to_json",
]
