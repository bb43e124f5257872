"""One JSON form for each meaning, and its hash: suites are versioned by it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from setpoint_columns import DataType
from setpoint_rules.rule import KINDS, Rule, Severity
from setpoint_runtime import errors


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """Returns a rule as plain JSON values; absent bounds are left out."""
    content: dict[str, Any] = {"kind": rule.KIND}
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        if value is None:
            continue
        if field.name == "dtypes":
            value = [dtype.name for dtype in value]
        elif isinstance(value, tuple):
            value = list(value)
        content[field.name] = value
    return content


def rule_from_json(content: Mapping[str, Any], field: str = "rule") -> Rule:
    """Returns the rule of a JSON form.

    Args:
        content: What `rule_to_json` gave, or a person wrote.
        field: Path of the rule, for errors.

    Raises:
        InvalidArgumentError: The kind or a field is unknown, or the definition means nothing.
    """
    arguments = dict(content)
    kind = KINDS.get(arguments.pop("kind", ""))
    if kind is None:
        known = ", ".join(KINDS)
        raise errors.invalid(f"{field}.kind", content.get("kind"), f"must be one of {known}")
    names = {each.name for each in dataclasses.fields(kind)}
    for name in arguments:
        if name not in names:
            reason = errors.Reason.UNKNOWN_FIELD
            raise errors.invalid(f"{field}.{name}", name, f"is no field of {kind.KIND}", reason)
    arguments["severity"] = _severity(arguments.get("severity", "REJECT"), field)
    if "dtypes" in arguments:
        arguments["dtypes"] = _dtypes(arguments["dtypes"], field)
    try:
        return kind(**arguments)
    except TypeError as error:
        reason = errors.Reason.MISSING_FIELD
        raise errors.invalid(field, kind.KIND, f"lacks a field: {error}", reason) from None


def content_hash(rules: Iterable[Rule], binding: str = "") -> str:
    """Returns the SHA-256, in hexadecimal, of rules in their order and what they are bound to."""
    content = {"binding": binding, "rules": [rule_to_json(rule) for rule in rules]}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _severity(name: Any, field: str) -> Severity:
    try:
        return Severity(name)
    except ValueError:
        raise errors.invalid(f"{field}.severity", name, "must be REJECT or FLAG") from None


def _dtypes(names: Any, field: str) -> tuple[DataType, ...]:
    try:
        return tuple(DataType[name] for name in names)
    except (KeyError, TypeError):
        known = ", ".join(DataType.__members__)
        raise errors.invalid(f"{field}.dtypes", names, f"must be of {known}") from None
