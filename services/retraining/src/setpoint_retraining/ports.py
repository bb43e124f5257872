"""What retraining needs from outside: a store, and the other services in its own words."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from setpoint_columns import Columns, DataType
from setpoint_retraining.domain.policy import Policy
from setpoint_retraining.domain.run import Run


@dataclass(frozen=True, slots=True)
class FeatureSetKey:
    """One exact version of a feature set."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """What a question must hold, and what the model then sees, both in order."""

    key: FeatureSetKey
    keys: Mapping[str, DataType]
    features: tuple[str, ...]
    """What the feature service fills: features, then what is computed from them."""
    request_fields: Mapping[str, DataType]
    request_columns: tuple[str, ...] = ()
    """Request fields that the feature service computes with: a spine holds them beside its keys."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """Features that the feature service keeps, together with the spine that they were joined to."""

    features: Columns
    snapshot_id: str
    """The token by which both are read again; empty where the service keeps none."""


@dataclass(frozen=True, slots=True)
class Champion:
    """What is known of the version that serves."""

    version: int
    feature_set: FeatureSetKey
    inputs: tuple[str, ...]
    score_column: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Package:
    """Everything that a manifest says, but the artifact's digest and size."""

    feature_set: FeatureSetKey
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    score_column: str
    threshold: float
    snapshot: Mapping[str, Any]
    metrics: Mapping[str, float]
    metric_rows: int
    profiles: Sequence[Mapping[str, Any]]
    parity: Mapping[str, Any]
    samples: Mapping[str, Any]
    """Numbers and texts by column, with the scores that the model gave; empty for an older run."""
    environment: Mapping[str, str]
    code_version: str
    parent: int | None


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route as it is now."""

    revision: int
    weights: Mapping[int, int]
    """Basis points by version."""
    taking_part: int = 10_000
    """Basis points of all keys that the weights are shares of; the others get a baseline version."""


class Verdict(enum.Enum):
    """A gate's answers."""

    PASS = enum.auto()
    FAIL = enum.auto()
    INCONCLUSIVE = enum.auto()


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """A gate's answer."""

    verdict: Verdict
    explanation: str


class Store(Protocol):
    """Policies and runs; each call is one transaction."""

    async def put_policy(
        self, request_id: str, fingerprint: bytes, policy: Policy
    ) -> tuple[Policy, bool]:
        """Store a policy, replacing one of its name; say whether this was a replay."""

    async def policy(self, name: str) -> Policy:
        """Return a policy. Raises NotFoundError."""

    async def policies(self, after: str, limit: int) -> list[Policy]:
        """Return policies by name, those after one."""

    async def add_run(self, request_id: str, fingerprint: bytes, run: Run) -> tuple[Run, bool]:
        """Store a new run. Raises FailedPreconditionError while another of its model goes on."""

    async def run(self, run_id: str) -> Run:
        """Return a run. Raises NotFoundError."""

    async def runs(self, model: str | None, before: str | None, limit: int) -> list[Run]:
        """Return runs, newest first, those before one."""

    async def save(self, run: Run) -> Run:
        """Store a changed run. Raises AbortedError if somebody else changed it since."""

    async def claim(self, holder: str, lease_seconds: float) -> Run | None:
        """Take a run that waits for a worker, or whose worker is gone."""

    async def extend(self, run_id: str, holder: str, lease_seconds: float) -> bool:
        """Keep a claimed run; False if another holds it."""

    async def rolling_out(self) -> list[str]:
        """Return the runs whose route is shifting."""


class Features(Protocol):
    """The feature service."""

    async def feature_set(self, name: str) -> FeatureSet:
        """Return the latest version of a feature set. Raises NotFoundError."""

    async def exact_feature_set(self, key: FeatureSetKey) -> FeatureSet:
        """Return one version of a feature set. Raises NotFoundError."""

    async def entity_keys(self, view: str) -> tuple[str, ...]:
        """Return the key columns of a view's entity. Raises NotFoundError."""

    async def read_view(self, view: str, start: int, end: int, known_at: int) -> Columns:
        """Return a view's rows of a range of event time, as known at a time."""

    async def historical(self, feature_set: FeatureSetKey, spine: Columns) -> Columns:
        """Return the features of each spine row as known at its event_time."""

    async def freeze(
        self, request_id: str, feature_set: FeatureSetKey, spine: Columns, description: str
    ) -> Frozen:
        """Do the same, and have spine and features kept, once per request id."""


class Registry(Protocol):
    """The registry."""

    async def champion(self, model: str) -> Champion | None:
        """Return the version that the alias champion points at."""

    async def register(self, run: Run, package: Package, artifact: Path) -> tuple[int, str]:
        """Store artifact and version, once per run; return version and manifest digest."""

    async def decide(
        self, run: Run, approve: bool, digest: str, approver: str, comment: str
    ) -> None:
        """Store the decision about a run's version."""

    async def promote(self, run: Run, alias: str, valid_from: int, reason: str) -> None:
        """Point an alias at a run's version."""


class Routes(Protocol):
    """The router's control plane."""

    async def current(self, route: str) -> RouteState | None:
        """Return a route as it is now."""

    async def set_weights(
        self,
        run: Run,
        action: str,
        weights: Mapping[int, int],
        valid_from: int,
        reason: str,
    ) -> None:
        """Create or change the plan's route, once per action of the run."""


class Monitoring(Protocol):
    """Monitoring's gate."""

    async def compare(
        self,
        run: Run,
        candidate: int,
        baseline: int,
        since: int,
        until: int,
        basis_points: int,
        minimum_predictions: int,
    ) -> GateAnswer:
        """Compare two versions on the plan's route."""


class Validation(Protocol):
    """The validation service."""

    async def validate(self, run: Run, suite: str, table: Columns) -> tuple[bool, str]:
        """Judge a table by a suite; say whether it passed, and what failed."""


class Inference(Protocol):
    """The inference service."""

    async def scores(
        self, model: str, champion: Champion, inputs: Columns
    ) -> npt.NDArray[np.float64]:
        """Return a version's score for each row."""


class Training(Protocol):
    """Fitting, in a process of its own."""

    async def train(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do one training. Raises what the training raised."""
