"""Applied changes as JSON documents, the form in which they are stored."""

import dataclasses
import enum
from typing import Any

from setpoint_feature import ports
from setpoint_feature.domain import changes, difference

Document = dict[str, Any]


def to_document(applied: ports.Applied) -> Document:
    """Returns the document of what was applied."""
    return dataclasses.asdict(applied, dict_factory=_plain)


def from_document(document: Document) -> ports.Applied:
    """Returns what a document says was applied."""
    return ports.Applied(
        **{**document, "changes": tuple(_change(each) for each in document["changes"])}
    )


def _plain(pairs: list[tuple[str, Any]]) -> Document:
    return {name: value.value if isinstance(value, enum.Enum) else value for name, value in pairs}


def _change(document: Document) -> changes.Change:
    return changes.Change(
        changes.Kind(document["kind"]),
        document["name"],
        changes.Action(document["action"]),
        document["before"],
        document["after"],
        tuple(difference.Difference(**each) for each in document["differences"]),
        tuple(_consequence(each) for each in document["consequences"]),
    )


def _consequence(document: Document) -> changes.Consequence:
    return changes.Consequence(
        changes.Severity(document["severity"]),
        document["message"],
        tuple((name, version) for name, version in document["feature_sets"]),
        tuple((model, version) for model, version in document["models"]),
    )
