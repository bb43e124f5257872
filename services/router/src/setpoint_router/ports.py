"""What the router needs of the world, in its own words."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from setpoint_columns import Columns
from setpoint_router.domain.plan import Plan
from setpoint_router.domain.route import FeatureSet, Field, Route, ServedTensor
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class FeatureAnswer:
    """What is known about entities: a column, statuses and event times for each feature."""

    features: Columns
    statuses: Sequence[bytes]
    value_times: Sequence[bytes]
    history_views: Sequence[str] = ()
    """Views whose values came from the history, for want of an online copy."""


class Features(Protocol):
    """The online side of the feature service."""

    async def fetch(
        self,
        feature_set: FeatureSet,
        entities: Columns,
        as_of_times: Sequence[int],
        timeout_seconds: float,
        traceparent: str | None,
    ) -> FeatureAnswer:
        """Return the features of entities, rows as asked.

        Raises:
            SetpointError: The service does not answer as it should.
        """
        ...


@dataclass(frozen=True, slots=True)
class FeatureSetDefinition:
    """What serving needs to know of a feature set."""

    feature_set: FeatureSet
    key_columns: tuple[Field, ...]
    features: tuple[Field, ...]
    request_fields: tuple[Field, ...]
    sensitive: tuple[str, ...]
    sent_request_fields: tuple[str, ...] = ()
    """Request fields that its transformations read."""


class FeatureDefinitions(Protocol):
    """The describing side of the feature service."""

    async def get_feature_set(self, feature_set: FeatureSet) -> FeatureSetDefinition:
        """Return a definition.

        Raises:
            SetpointError: There is none, or the service does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """What the registry says of a version."""

    version: int
    is_approved: bool
    feature_set: FeatureSet | None
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    score_column: str = ""
    input_tensors: tuple[ServedTensor, ...] = ()
    output_tensors: tuple[ServedTensor, ...] = ()
    substituted_inputs: frozenset[str] = frozenset()


class Registry(Protocol):
    """Who knows what a version is made of."""

    async def get_version(self, model: str, version: int) -> RegisteredVersion:
        """Return a version.

        Raises:
            SetpointError: There is none, or the registry does not answer.
        """
        ...


class Answer(NamedTuple):
    """What a version said, and where it ran."""

    outputs: Columns
    replica: str
    """Its address."""


class Inference(Protocol):
    """Who runs models."""

    async def predict(
        self, plan: Plan, inputs: Any, timeout_seconds: float, traceparent: str | None
    ) -> Answer:
        """Return the outputs for encoded inputs, as many rows as inputs.

        Raises:
            SetpointError: The version did not answer.
        """
        ...

    def replicas(self, plan: Plan) -> int:
        """Return among how many the calls of a version are divided now, at least 1."""
        ...

    async def load(self, model: str, version: int) -> None:
        """Make a version ready.

        Raises:
            SetpointError: It cannot be.
        """
        ...


class Codec(Protocol):
    """Turns requests into rows, and works into what leaves the process."""

    def entity_key(self, source: Any) -> str:
        """Return the assignment key that the entities of a request make."""
        ...

    def given_row(self, source: Any, plan: Plan) -> Sequence[Any]:
        """Return the model's inputs as the request gives them.

        Raises:
            InvalidArgumentError: Names the field that is wrong.
        """
        ...

    def entity_row(self, source: Any, plan: Plan) -> Sequence[Any]:
        """Return the entity keys of a request.

        Raises:
            InvalidArgumentError: Names the field that is wrong.
        """
        ...

    def requested_row(self, source: Any, plan: Plan) -> Sequence[Any]:
        """Return the request fields of a request.

        Raises:
            InvalidArgumentError: Names the field that is wrong.
        """
        ...

    def encode(self, columns: Columns) -> Any:
        """Return columns as the transport wants them."""
        ...


class Recorder(Protocol):
    """Turns works into what leaves the process."""

    def record(self, work: Any) -> bytes:
        """Return the record of a work."""
        ...

    def replies(self, work: Any) -> Sequence[Any]:
        """Return the answer of each row; rows that failed have None."""
        ...

    def error_text(self, error: errors.SetpointError) -> str:
        """Return reason and message as records and columns hold them."""
        ...

    def code_of(self, error: errors.SetpointError) -> int:
        """Return the google.rpc.Code of an error."""
        ...


class Spool(Protocol):
    """Where records are safe."""

    @property
    def is_full(self) -> bool:
        """Whether records cannot be kept now."""
        ...

    def append(self, payload: bytes) -> Awaitable[None]:
        """Begin to keep a record; what is returned is done once it is on disk.

        Raises:
            ResourceExhaustedError: There is no room; also when awaiting.
        """
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of rows."""

    rejected: Sequence[tuple[int, errors.InvalidArgumentError]] = ()
    flagged: Sequence[tuple[int, str]] = ()
    """Row and id of the rule."""


class Checks(Protocol):
    """The rules that validation has pushed."""

    @property
    def is_expected(self) -> bool:
        """Whether rules should have been received but were not."""
        ...

    def judge(self, feature_set: str, columns: Columns) -> Verdict | None:
        """Return what the rules of a feature set say; None when it has none."""
        ...


class Observer(Protocol):
    """Who counts what happens."""

    def answered(self, work: Any) -> None:
        """Note a work whose rows have all been answered."""
        ...

    def unrecorded(self, rows: int) -> None:
        """Note predictions that were answered without a record."""
        ...

    def refused(self, reason: errors.Reason) -> None:
        """Note a request that was turned away before it became a prediction."""
        ...


class ShadowObserver(Observer, Protocol):
    """Who counts what happens to copies for shadows."""

    def dropped(self, plan: Plan, rows: int, reason: str) -> None:
        """Note copies that were not made, or not asked about."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A route after a mutating call."""

    route: Route
    is_replay: bool


class RouteStore(Protocol):
    """Where routes and their history are kept."""

    async def find_replay(self, request_id: str, method: str, fingerprint: bytes) -> Route | None:
        """Return what a request made before.

        Raises:
            AlreadyExistsError: The request_id belongs to another request.
        """
        ...

    async def create(self, request_id: str, fingerprint: bytes, route: Route) -> StoredRoute:
        """Store revision 1.

        Raises:
            AlreadyExistsError: The name is taken, or the request_id.
        """
        ...

    async def append(
        self,
        request_id: str,
        fingerprint: bytes,
        name: str,
        expected_revision: int,
        make: "MakeRevision",
    ) -> StoredRoute:
        """Store the next revision, made from the current one while nobody else can.

        Raises:
            NotFoundError: There is no such route.
            AbortedError: The current revision is not the expected one.
        """
        ...

    async def get(self, name: str, revision: int = 0) -> Route:
        """Return a revision, the current one by default.

        Raises:
            NotFoundError: There is no such route or revision.
        """
        ...

    async def in_force(self, name: str, time_us: int) -> Route:
        """Return the revision that was in force at a time.

        Raises:
            NotFoundError: There is no such route, or none was in force.
        """
        ...

    async def page(self, after: str, limit: int) -> list[Route]:
        """Return current revisions by name."""
        ...

    async def page_revisions(self, name: str, before: int, limit: int) -> list[Route]:
        """Return revisions of a route, newest first; `before` 0 begins with the newest."""
        ...

    async def current_revisions(self) -> dict[str, int]:
        """Return the number of the current revision of every route."""
        ...


class MakeRevision(Protocol):
    """Makes the next revision from the current one."""

    def __call__(self, current: Route) -> Route:
        """Return it."""
        ...
