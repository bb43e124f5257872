"""Routes and their immutable revisions."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from setpoint_columns import DataType
from setpoint_router.domain import assignment
from setpoint_router.domain import ensemble as ensembles
from setpoint_router.domain import layer as layers
from setpoint_router.domain import shadow as shadows_module
from setpoint_router.domain.shadow import Shadow
from setpoint_runtime import errors, names

MAX_OVERRIDES = 10_000
MAX_KEY_LENGTH = 1024
"""Longest assignment key in characters."""


class SpoolFullPolicy(enum.IntEnum):
    """What happens when a record cannot be kept; the numbers are the contract's."""

    REJECT = 1
    ANSWER_UNRECORDED = 2


class FeatureFailurePolicy(enum.IntEnum):
    """What happens when the feature service does not answer; the numbers are the contract's."""

    REJECT = 1
    ANSWER_WITH_NULLS = 2


class AssignmentReason(enum.IntEnum):
    """Which rule chose a version; the numbers are the contract's."""

    OVERRIDE = 1
    SLOT = 2
    FALLBACK = 3
    SHADOW = 4
    ENSEMBLE = 5
    LAYER = 6


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """One exact version of a feature set."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Field:
    """A named, typed column."""

    name: str
    dtype: DataType
    description: str = ""


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """A tensor of a model, all of one type, that holds columns side by side."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """What the router knows of a version without asking anybody."""

    version: int
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    feature_set: FeatureSet | None = None
    key_columns: tuple[Field, ...] = ()
    features: tuple[Field, ...] = ()
    request_fields: tuple[Field, ...] = ()
    sensitive_inputs: tuple[str, ...] = ()
    score_column: str = ""
    input_tensors: tuple[ServedTensor, ...] = ()
    """The model's own tensors; empty in routes that were stored without them."""
    output_tensors: tuple[ServedTensor, ...] = ()
    substituted_inputs: frozenset[str] = frozenset()
    """Inputs for whose missing values the model has substitutes, whatever their type."""
    sent_request_fields: tuple[str, ...] = ()
    """Request fields that the feature service computes with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What people decide about a route."""

    name: str
    model: str
    weights: Mapping[int, int]
    salt: str = ""
    overrides: Mapping[str, int] = field(default_factory=dict)
    fallback_version: int = 0
    spool_full_policy: SpoolFullPolicy = SpoolFullPolicy.REJECT
    feature_failure_policy: FeatureFailurePolicy = FeatureFailurePolicy.REJECT
    valid_from: int = 0
    actor: str = ""
    reason: str = ""
    shadows: tuple[Shadow, ...] = ()
    ensemble: ensembles.Ensemble | None = None
    layer: layers.Layer | None = None

    @property
    def serving(self) -> frozenset[int]:
        """All versions that may have to answer callers alone."""
        named = set(self.weights) | set(self.overrides.values())
        if self.fallback_version:
            named.add(self.fallback_version)
        if self.layer is not None:
            named.add(self.layer.baseline_version)
        return frozenset(named)

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions that may be asked, shadows and members among them, in order."""
        named = set(self.serving) | {each.version for each in self.shadows}
        if self.ensemble is not None:
            named |= {each.version for each in self.ensemble.members}
        return tuple(sorted(named))

    @property
    def slot_reason(self) -> AssignmentReason:
        """Why a key without an override gets what it gets."""
        return AssignmentReason.SLOT if self.ensemble is None else AssignmentReason.ENSEMBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One revision of a route."""

    content: Content
    revision: int
    valid_from: int
    served: tuple[ServedVersion, ...]
    slots: assignment.SlotTable
    moved_slots: int

    @property
    def name(self) -> str:
        """Name of the route."""
        return self.content.name

    def assign(self, key: str) -> tuple[int, int, AssignmentReason]:
        """Returns version, slot and reason for a key."""
        slot = assignment.slot_of(self.content.salt, key)
        override = self.content.overrides.get(key)
        if override is not None:
            return override, slot, AssignmentReason.OVERRIDE
        layer = self.content.layer
        if layer is not None and not layer.takes(key):
            return layer.baseline_version, slot, AssignmentReason.LAYER
        return int(self.slots[slot]), slot, self.content.slot_reason

    def shadows_of(self, key: str) -> tuple[shadows_module.Choice, ...]:
        """Returns for each shadow whether it gets copies of a key's predictions."""
        salt, answering = self.content.salt, self.assign(key)[0]
        return tuple(
            shadows_module.choose(each, salt, key, answering) for each in self.content.shadows
        )


def check_content(content: Content) -> None:
    """Refuses what no revision may hold.

    Raises:
        InvalidArgumentError: Names the field, the value and the rule.
    """
    names.check_name("route.name", content.name)
    names.check_name("route.model", content.model)
    if content.ensemble is None:
        assignment.check_weights(content.weights)
    else:
        ensembles.check(content.ensemble)
        if content.weights:
            rule = "must be empty beside an ensemble"
            raise errors.invalid(
                "route.weights", dict(content.weights), rule, errors.Reason.INVALID_WEIGHTS
            )
    if len(content.overrides) > MAX_OVERRIDES:
        raise errors.invalid(
            "route.overrides", len(content.overrides), f"must be at most {MAX_OVERRIDES}"
        )
    for key, version in content.overrides.items():
        _check_version(f'route.overrides["{key[:MAX_KEY_LENGTH]}"]', version)
    if content.fallback_version:
        _check_version("route.fallback_version", content.fallback_version)
    if content.valid_from < 0:
        raise errors.invalid("route.valid_from", content.valid_from, "must not be negative")
    shadows_module.check(content.shadows)
    if content.layer is not None:
        layers.check(content.layer)


def _check_version(field: str, version: int) -> None:
    if not 1 <= version <= assignment.MAX_VERSION:
        raise errors.invalid(
            field, version, f"must be a version from 1 to {assignment.MAX_VERSION}"
        )


def first_revision(content: Content, served: tuple[ServedVersion, ...], now_us: int) -> Route:
    """Returns revision 1 of a route; an empty salt becomes the route's name."""
    return _revision(content, content.salt or content.name, served, 1, now_us, None)


def next_revision(
    current: Route, content: Content, served: tuple[ServedVersion, ...], now_us: int
) -> Route:
    """Returns the revision after `current`.

    Raises:
        InvalidArgumentError: Model, salt or time do not continue the route's history.
    """
    kept = current.content
    if content.model != kept.model:
        raise errors.invalid("route.model", content.model, f"must stay {kept.model}")
    if content.salt not in ("", kept.salt):
        raise errors.invalid("route.salt", content.salt, f"must stay {kept.salt}")
    if content.valid_from and content.valid_from < current.valid_from:
        rule = f"must not be before the current revision's {current.valid_from}"
        raise errors.invalid("route.valid_from", content.valid_from, rule)
    now_us = max(now_us, current.valid_from)
    return _revision(content, kept.salt, served, current.revision + 1, now_us, current)


def _revision(
    content: Content,
    salt: str,
    served: tuple[ServedVersion, ...],
    revision: int,
    now_us: int,
    previous: Route | None,
) -> Route:
    table = assignment.empty_table() if previous is None else previous.slots
    # The revision is part of the draw, so that one canary after the other does not fall on the
    # same keys.
    if content.ensemble is None:
        slots, moved = assignment.rebalance(table, content.weights, f"{salt}\0{revision}")
    else:
        slots = assignment.empty_table()
        moved = int(np.count_nonzero(table != slots))
    slots.setflags(write=False)
    return Route(
        content=_with_salt(content, salt),
        revision=revision,
        valid_from=content.valid_from or now_us,
        served=served,
        slots=slots,
        moved_slots=0 if previous is None else moved,
    )


def _with_salt(content: Content, salt: str) -> Content:
    return Content(
        name=content.name,
        model=content.model,
        weights=dict(content.weights),
        salt=salt,
        overrides=dict(content.overrides),
        fallback_version=content.fallback_version,
        spool_full_policy=content.spool_full_policy,
        feature_failure_policy=content.feature_failure_policy,
        valid_from=content.valid_from,
        actor=content.actor,
        reason=content.reason,
        shadows=content.shadows,
        ensemble=content.ensemble,
        layer=content.layer,
    )
