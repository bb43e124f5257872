"""A route made ready for the data plane: everything a prediction needs, looked up once a revision."""

import enum
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import DataType
from setpoint_router.domain import assignment, combination, shadow, values
from setpoint_router.domain.ensemble import Ensemble
from setpoint_router.domain.layer import Layer
from setpoint_router.domain.route import (
    AssignmentReason,
    FeatureSet,
    Field,
    Route,
    ServedVersion,
)


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """Names that the versions of a route ask for, together: a request may serve any of them."""

    given: frozenset[str]
    """Inputs of a request without entities."""
    entities: frozenset[str]
    """Entity keys."""
    requested: frozenset[str]
    """Inputs of a request with entities."""


class Kind(enum.IntEnum):
    """Who gets the answers of a plan; the numbers are those of monitoring's contract."""

    SERVED = 1
    SHADOW = 2


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How one version of one revision is served."""

    route: Route
    version: ServedVersion
    names: Names
    input_types: Mapping[str, DataType]
    """The model's inputs by name."""
    nullable: frozenset[str]
    """Those that may be null: floats, and where the model has a substitute."""
    index: int
    """Position among the plans of its route; -1 for shadows and members of an ensemble."""
    kind: Kind = Kind.SERVED
    shadows: "tuple[ShadowPlan, ...]" = ()
    """Who gets copies of what this one has answered."""
    ensemble: Ensemble | None = None
    members: "tuple[Plan, ...]" = ()
    """Those who answer together instead of `version`, which is then what they have in common."""
    cache: dict[str, Any] = field(default_factory=dict)
    """What other layers have worked out from this plan, once."""

    @property
    def feature_set(self) -> FeatureSet | None:
        """The feature set that the version was trained on."""
        return self.version.feature_set


@dataclass(frozen=True, slots=True, eq=False)
class ShadowPlan:
    """A version that gets copies."""

    plan: Plan
    basis_points: int
    salt: str

    def chosen(self, keys: Sequence[str]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
        """Returns the positions of the keys whose predictions are copied, and the slots of all."""
        slots = assignment.slots_of(self.salt, keys)
        return np.flatnonzero(slots < self.basis_points), slots


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """Who serves the keys outside a route's part of its layer."""

    layer: Layer
    plan: Plan
    salt_prefix: str

    def serves(self, key: str) -> bool:
        """Says whether a key lies outside."""
        slot = assignment.xxh3((self.salt_prefix + key).encode()) % assignment.SLOTS
        return not self.layer.holds(slot)


@dataclass(frozen=True, slots=True, eq=False)
class ServingRoute:
    """The current revision of a route as the data plane uses it."""

    route: Route
    plans: tuple[Plan, ...]
    by_slot: "array[int]"
    """Position in `plans` by slot."""
    overrides: Mapping[str, Plan]
    fallback: Plan | None
    salt_prefix: str
    slot_reason: AssignmentReason
    baseline: Baseline | None = None

    def assign(self, key: str) -> tuple[Plan, int, AssignmentReason]:
        """Returns plan, slot and reason for a key."""
        slot = assignment.xxh3((self.salt_prefix + key).encode()) % assignment.SLOTS
        if self.overrides and (plan := self.overrides.get(key)) is not None:
            return plan, slot, AssignmentReason.OVERRIDE
        if self.baseline is not None and self.baseline.serves(key):
            return self.baseline.plan, slot, AssignmentReason.LAYER
        return self.plans[self.by_slot[slot]], slot, self.slot_reason


def serving_route(route: Route) -> ServingRoute:
    """Returns a revision made ready for the data plane."""
    names = Names(
        given=_names(version.inputs for version in route.served),
        entities=_names(version.key_columns for version in route.served),
        requested=_names(version.request_fields for version in route.served),
    )
    content = route.content
    shadows = _shadows(route, names)
    plans = tuple(
        _plan(
            route,
            version,
            names,
            index,
            shadows=tuple([each for each in shadows if each.plan.version is not version]),
            **fields,
        )
        for index, (version, fields) in enumerate(_serving(route, names))
    )
    by_version = {plan.version.version: plan for plan in plans}
    positions = {version: plan.index for version, plan in by_version.items()}
    return ServingRoute(
        route=route,
        plans=plans,
        by_slot=array("H", [positions[version] for version in route.slots.tolist()]),
        overrides={key: by_version[version] for key, version in content.overrides.items()},
        fallback=by_version.get(content.fallback_version),
        salt_prefix=f"{content.salt}\0",
        slot_reason=content.slot_reason,
        baseline=_baseline(content.layer, by_version),
    )


def _serving(route: Route, names: Names) -> list[tuple[ServedVersion, dict[str, Any]]]:
    """Returns who answers callers, with what is special about it."""
    serving, ensemble = route.content.serving, route.content.ensemble
    found: list[tuple[ServedVersion, dict[str, Any]]] = [
        (each, {}) for each in route.served if each.version in serving
    ]
    if ensemble is not None:
        versions = {each.version: each for each in route.served}
        members = tuple(
            _plan(route, versions[each.version], names, -1) for each in ensemble.members
        )
        joint = combination.joint_version(ensemble, route.served)
        found.append((joint, {"ensemble": ensemble, "members": members}))
    return found


def _plan(route: Route, version: ServedVersion, names: Names, index: int, **fields: Any) -> Plan:
    return Plan(
        route=route,
        version=version,
        names=names,
        input_types={each.name: each.dtype for each in version.inputs},
        nullable=version.substituted_inputs
        | {each.name for each in version.inputs if each.dtype in values.FLOATS},
        index=index,
        **fields,
    )


def _shadows(route: Route, names: Names) -> tuple[ShadowPlan, ...]:
    versions = {each.version: each for each in route.served}
    return tuple(
        ShadowPlan(
            _plan(route, versions[each.version], names, -1, kind=Kind.SHADOW),
            each.basis_points,
            shadow.salt_of(route.content.salt, each.version),
        )
        for each in route.content.shadows
    )


def _baseline(layer: Layer | None, by_version: Mapping[int, Plan]) -> Baseline | None:
    if layer is None:
        return None
    return Baseline(layer, by_version[layer.baseline_version], f"{layer.salt}\0")


def _names(fields: Iterable[tuple[Field, ...]]) -> frozenset[str]:
    return frozenset(each.name for group in fields for each in group)
