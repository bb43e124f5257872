"""Routes, versions and definitions to and from the contract's messages."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import feature_service_pb2
from setpoint.registry.v1 import model_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import proto as columns_proto
from setpoint_router import ports
from setpoint_router.domain import preview
from setpoint_router.domain.ensemble import Combination, Ensemble, Member
from setpoint_router.domain.layer import Layer
from setpoint_router.domain.route import (
    AssignmentReason,
    Content,
    FeatureFailurePolicy,
    FeatureSet,
    Field,
    Route,
    ServedTensor,
    ServedVersion,
    SpoolFullPolicy,
)
from setpoint_router.domain.shadow import Choice, Shadow
from setpoint_runtime import errors

PolicyT = TypeVar("PolicyT", SpoolFullPolicy, FeatureFailurePolicy)


def content_from_proto(message: route_pb2.Route) -> Content:
    """Returns what a caller wants of a route.

    Raises:
        InvalidArgumentError: A weight is given twice, or an enum has an unknown number.
    """
    weights: dict[int, int] = {}
    for each in message.weights:
        if each.version in weights:
            raise errors.invalid(
                "route.weights",
                each.version,
                "must be given once",
                errors.Reason.INVALID_WEIGHTS,
            )
        weights[each.version] = each.basis_points
    return Content(
        name=message.name,
        model=message.model,
        weights=weights,
        salt=message.salt,
        overrides=dict(message.overrides),
        fallback_version=message.fallback_version,
        spool_full_policy=_policy(
            SpoolFullPolicy, message.spool_full_policy, "route.spool_full_policy"
        ),
        feature_failure_policy=_policy(
            FeatureFailurePolicy, message.feature_failure_policy, "route.feature_failure_policy"
        ),
        valid_from=message.valid_from,
        actor=message.actor,
        reason=message.reason,
        shadows=tuple(Shadow(each.version, each.basis_points) for each in message.shadows),
        ensemble=_ensemble(message.ensemble) if message.HasField("ensemble") else None,
        layer=_layer_from_proto(message.layer) if message.HasField("layer") else None,
    )


def _ensemble(message: route_pb2.Ensemble) -> Ensemble:
    path = "route.ensemble.combination"
    try:
        combination = Combination(message.combination)
    except ValueError:
        raise errors.invalid(path, message.combination, "must be a known combination") from None
    return Ensemble(
        members=tuple(Member(each.version, each.weight or 1) for each in message.members),
        combination=combination,
        quorum=message.quorum or len(message.members),
        member_deadline_us=message.member_deadline_microseconds,
    )


def _ensemble_to_proto(found: Ensemble) -> route_pb2.Ensemble:
    return route_pb2.Ensemble(
        members=[
            route_pb2.EnsembleMember(version=each.version, weight=each.weight)
            for each in found.members
        ],
        combination=int(found.combination),  # type: ignore[arg-type]  # equal numbers
        quorum=found.quorum,
        member_deadline_microseconds=found.member_deadline_us,
    )


def _layer_from_proto(message: route_pb2.Layer) -> Layer:
    return Layer(message.name, message.first_slot, message.end_slot, message.baseline_version)


def _layer_to_proto(layer: Layer) -> route_pb2.Layer:
    return route_pb2.Layer(
        name=layer.name,
        first_slot=layer.first_slot,
        end_slot=layer.end_slot,
        baseline_version=layer.baseline_version,
    )


def _policy(kind: type[PolicyT], number: int, path: str) -> PolicyT:
    try:
        # Not saying anything means the first one.
        return kind(number or 1)
    except ValueError:
        raise errors.invalid(path, number, "must be a known policy") from None


def route_to_proto(route: Route) -> route_pb2.Route:
    """Returns a revision as callers see it."""
    content = route.content
    return route_pb2.Route(
        name=content.name,
        model=content.model,
        weights=[
            route_pb2.VersionWeight(version=version, basis_points=share)
            for version, share in sorted(content.weights.items())
        ],
        salt=content.salt,
        overrides=content.overrides,
        fallback_version=content.fallback_version,
        spool_full_policy=int(content.spool_full_policy),  # type: ignore[arg-type]  # equal numbers
        feature_failure_policy=int(content.feature_failure_policy),  # type: ignore[arg-type]  # equal numbers
        revision=route.revision,
        valid_from=route.valid_from,
        actor=content.actor,
        reason=content.reason,
        served_versions=[served_to_proto(each) for each in route.served],
        moved_slots=route.moved_slots,
        shadows=[
            route_pb2.Shadow(version=each.version, basis_points=each.basis_points)
            for each in content.shadows
        ],
        ensemble=None if content.ensemble is None else _ensemble_to_proto(content.ensemble),
        layer=None if content.layer is None else _layer_to_proto(content.layer),
    )


def served_to_proto(served: ServedVersion) -> route_pb2.ServedVersion:
    """Returns what the router knows of a version, as a message."""
    message = route_pb2.ServedVersion(
        version=served.version,
        inputs=fields_to_proto(served.inputs),
        outputs=fields_to_proto(served.outputs),
        key_columns=fields_to_proto(served.key_columns),
        features=fields_to_proto(served.features),
        request_fields=fields_to_proto(served.request_fields),
        sensitive_inputs=served.sensitive_inputs,
        score_column=served.score_column,
        input_tensors=_tensors_to_proto(served.input_tensors),
        output_tensors=_tensors_to_proto(served.output_tensors),
        substituted_inputs=sorted(served.substituted_inputs),
        sent_request_fields=served.sent_request_fields,
    )
    if served.feature_set is not None:
        message.feature_set.name = served.feature_set.name
        message.feature_set.version = served.feature_set.version
    return message


def served_from_proto(message: route_pb2.ServedVersion) -> ServedVersion:
    """Returns what the router knew of a version when it stored the message."""
    return ServedVersion(
        version=message.version,
        feature_set=feature_set_from_proto(message.feature_set),
        inputs=fields_from_proto(message.inputs),
        outputs=fields_from_proto(message.outputs),
        key_columns=fields_from_proto(message.key_columns),
        features=fields_from_proto(message.features),
        request_fields=fields_from_proto(message.request_fields),
        sensitive_inputs=tuple(message.sensitive_inputs),
        score_column=message.score_column,
        input_tensors=_tensors_from_proto(message.input_tensors),
        output_tensors=_tensors_from_proto(message.output_tensors),
        substituted_inputs=frozenset(message.substituted_inputs),
        sent_request_fields=tuple(message.sent_request_fields),
    )


def _tensors_to_proto(tensors: Iterable[ServedTensor]) -> list[route_pb2.ServedTensor]:
    return [route_pb2.ServedTensor(name=each.name, columns=each.columns) for each in tensors]


def _tensors_from_proto(
    tensors: Iterable[route_pb2.ServedTensor | model_pb2.TensorSpec],
) -> tuple[ServedTensor, ...]:
    return tuple(ServedTensor(each.name, tuple(each.columns)) for each in tensors)


def fields_to_proto(fields: Iterable[Field]) -> list[reference_pb2.FieldSpec]:
    """Returns fields as messages."""
    return [
        reference_pb2.FieldSpec(
            name=each.name,
            dtype=columns_proto.data_type_to_proto(each.dtype),
            description=each.description,
        )
        for each in fields
    ]


def fields_from_proto(fields: Iterable[reference_pb2.FieldSpec]) -> tuple[Field, ...]:
    """Returns messages as fields.

    Raises:
        InvalidArgumentError: A field has no known type.
    """
    return tuple(
        Field(
            each.name, columns_proto.data_type_from_proto(each.dtype, each.name), each.description
        )
        for each in fields
    )


def feature_set_from_proto(message: reference_pb2.FeatureSetReference) -> FeatureSet | None:
    """Returns a reference, None when it is empty."""
    return FeatureSet(message.name, message.version) if message.name else None


def registered_from_proto(message: model_pb2.ModelVersion) -> ports.RegisteredVersion:
    """Returns what the registry says of a version."""
    manifest = message.manifest
    return ports.RegisteredVersion(
        version=message.version,
        is_approved=message.approval_state == model_pb2.APPROVAL_STATE_APPROVED,
        feature_set=feature_set_from_proto(manifest.feature_set),
        inputs=_columns_of(manifest.inputs, "inputs"),
        outputs=_columns_of(manifest.outputs, "outputs"),
        score_column=manifest.score_column,
        input_tensors=_tensors_from_proto(manifest.inputs),
        output_tensors=_tensors_from_proto(manifest.outputs),
        substituted_inputs=frozenset(
            rule.column
            for tensor in manifest.inputs
            for rule in tensor.missing_values
            if rule.HasField("substitute")
        ),
    )


def _columns_of(tensors: Sequence[model_pb2.TensorSpec], path: str) -> tuple[Field, ...]:
    return tuple(
        Field(column, columns_proto.data_type_from_proto(tensor.dtype, f"manifest.{path}"))
        for tensor in tensors
        for column in tensor.columns
    )


def definition_from_proto(
    answer: feature_service_pb2.GetFeatureSetResponse, sensitive: Sequence[str]
) -> ports.FeatureSetDefinition:
    """Returns what serving needs to know of a feature set."""
    message = answer.feature_set
    return ports.FeatureSetDefinition(
        feature_set=FeatureSet(message.name, message.version),
        key_columns=fields_from_proto(answer.key_columns),
        features=tuple(
            Field(name, columns_proto.data_type_from_proto(dtype, "feature_set.features"))
            for name, dtype in (
                *((each.alias or each.field, each.dtype) for each in message.features),
                *((each.name, each.dtype) for each in message.transformations),
            )
        ),
        request_fields=fields_from_proto(message.request_fields),
        sensitive=tuple(sorted({*sensitive, *answer.sensitive_columns})),
        sent_request_fields=tuple(each.name for each in answer.request_columns),
    )


def assignment_to_proto(
    route: Route, version: int, slot: int, reason: AssignmentReason
) -> route_pb2.Assignment:
    """Returns a choice as a message."""
    found = route.content.ensemble
    members = found.members if found is not None and not version else ()
    return route_pb2.Assignment(
        route=route.name,
        route_revision=route.revision,
        model_version=reference_pb2.ModelVersionReference(
            model=route.content.model, version=version
        ),
        slot=slot,
        reason=int(reason),  # type: ignore[arg-type]  # equal numbers
        versions=[each.version for each in members],
    )


def choice_to_proto(choice: Choice) -> route_pb2.ShadowChoice:
    """Returns whether a key is copied to a shadow, as a message."""
    return route_pb2.ShadowChoice(
        version=choice.shadow.version,
        slot=choice.slot,
        basis_points=choice.shadow.basis_points,
        is_copied=choice.is_copied,
    )


def preview_to_proto(
    before: Route, after: Route, moved: Sequence[preview.KeyMovement]
) -> router_service_pb2.PreviewSplitResponse:
    """Returns who would move, as a message."""
    return router_service_pb2.PreviewSplitResponse(
        base_revision=before.revision,
        moved_slots=after.moved_slots,
        movements=[
            router_service_pb2.SplitMovement(
                from_version=each.before, to_version=each.after, basis_points=each.basis_points
            )
            for each in preview.movements(before, after)
        ],
        moved_keys=[
            router_service_pb2.KeyMovement(
                assignment_key=each.key,
                before=assignment_to_proto(before, *each.before),
                after=assignment_to_proto(after, *each.after),
            )
            for each in moved
        ],
    )
