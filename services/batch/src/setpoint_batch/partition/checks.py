"""The rules of a feature set, judged as the router judges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from setpoint.validation.v1 import suite_pb2
from setpoint_batch.partition.values import RowErrors
from setpoint_columns import Columns
from setpoint_rules import CompiledRules, compile
from setpoint_rules import proto as rules_proto

RULE_FLAGGED = "RULE_FLAGGED"


def compiled(told: Mapping[str, Any] | None) -> tuple[CompiledRules, ...]:
    """Reads a task's rules."""
    suites = [
        suite_pb2.Suite.FromString(bytes.fromhex(each)) for each in (told or {}).get("suites", ())
    ]
    return tuple(
        compile(rules_proto.rules_from_proto(suite.rules, f"suites[{suite.name}].rules"))
        for suite in suites
    )


def judge(
    suites: Sequence[CompiledRules], inputs: Columns
) -> tuple[RowErrors, dict[int, list[str]]]:
    """Returns the rows that must not go on, and what is noted about others."""
    rejected: RowErrors = {}
    flagged: dict[int, list[str]] = {}
    for suite in suites:
        verdict = suite.check_rows(inputs)
        if verdict.ok:
            continue
        for row, failure in verdict.rejections.items():
            rejected.setdefault(row, failure.error(f'inputs["{failure.column}"]'))
        for row, failures in verdict.flags.items():
            noted = [f"{RULE_FLAGGED}:{failure.rule_id}" for failure in failures]
            flagged.setdefault(row, []).extend(noted)
    return rejected, flagged
