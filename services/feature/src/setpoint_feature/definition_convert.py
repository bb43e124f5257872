"""Plans of definitions to messages, and what is to be planned from them."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import definition_service_pb2 as pb
from setpoint_feature import convert, ports
from setpoint_feature.domain import changes, difference
from setpoint_runtime import errors

_M = TypeVar("_M")
_D = TypeVar("_D")

MAX_TEXT = 20_000
"""Longest text of a difference, such as the source of a function; the rest of it is left out."""

_KINDS = {
    changes.Kind.ENTITY: pb.DEFINITION_KIND_ENTITY,
    changes.Kind.VIEW: pb.DEFINITION_KIND_FEATURE_VIEW,
    changes.Kind.FEATURE_SET: pb.DEFINITION_KIND_FEATURE_SET,
}
_ACTIONS = {
    changes.Action.UNCHANGED: pb.CHANGE_ACTION_UNCHANGED,
    changes.Action.CREATE: pb.CHANGE_ACTION_CREATE,
    changes.Action.METADATA: pb.CHANGE_ACTION_METADATA,
    changes.Action.NEW_VERSION: pb.CHANGE_ACTION_NEW_VERSION,
    changes.Action.RESTORE: pb.CHANGE_ACTION_RESTORE,
}
_SEVERITIES = {
    changes.Severity.NOTE: pb.CONSEQUENCE_SEVERITY_NOTE,
    changes.Severity.WARNING: pb.CONSEQUENCE_SEVERITY_WARNING,
    changes.Severity.REFUSED: pb.CONSEQUENCE_SEVERITY_REFUSED,
    changes.Severity.UNKNOWN: pb.CONSEQUENCE_SEVERITY_UNKNOWN,
}


def wanted_from_proto(message: pb.Definitions) -> changes.Wanted:
    """Returns definitions that are applied together; what the service sets is ignored.

    Raises:
        InvalidArgumentError: A type, boundary or default is wrong; names it by the place of its definition.
    """
    return changes.Wanted(
        [
            _placed(convert.entity_from_proto, each, f"entities[{index}]")
            for index, each in enumerate(message.entities)
        ],
        [
            _placed(convert.view_from_proto, each, f"views[{index}]")
            for index, each in enumerate(message.views)
        ],
        [
            _placed(convert.feature_set_from_proto, each, f"feature_sets[{index}]")
            for index, each in enumerate(message.feature_sets)
        ],
    )


def _placed(read: Callable[[_M], _D], message: _M, place: str) -> _D:
    try:
        return read(message)
    except errors.InvalidArgumentError as error:
        raise changes.placed(error, f"definitions.{place}") from None


def changes_to_proto(found: Iterable[changes.Change]) -> list[pb.DefinitionChange]:
    """Returns the messages of changes."""
    return [_change_to_proto(each) for each in found]


def _change_to_proto(change: changes.Change) -> pb.DefinitionChange:
    return pb.DefinitionChange(
        kind=_KINDS[change.kind],
        name=change.name,
        action=_ACTIONS[change.action],
        current_version=change.before,
        planned_version=change.after,
        differences=map(_difference_to_proto, change.differences),
        consequences=map(_consequence_to_proto, change.consequences),
    )


def _difference_to_proto(found: difference.Difference) -> pb.FieldDifference:
    return pb.FieldDifference(
        field=found.field,
        before=found.before[:MAX_TEXT],
        after=found.after[:MAX_TEXT],
        makes_version=found.makes_version,
    )


def _consequence_to_proto(found: changes.Consequence) -> pb.Consequence:
    return pb.Consequence(
        severity=_SEVERITIES[found.severity],
        message=found.message,
        feature_sets=[
            reference_pb2.FeatureSetReference(name=name, version=version)
            for name, version in found.feature_sets
        ],
        models=[
            reference_pb2.ModelVersionReference(model=model, version=version)
            for model, version in found.models
        ],
    )


def applied_to_proto(applied: ports.Applied) -> pb.AppliedDefinitions:
    """Returns the message of what was applied."""
    return pb.AppliedDefinitions(
        revision=applied.revision,
        actor=applied.actor,
        reason=applied.reason,
        forced=applied.forced,
        apply_time=applied.apply_time,
        changes=changes_to_proto(applied.changes),
    )
