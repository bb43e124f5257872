"""Messages for tests of validation and of those who use it."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from setpoint.validation.v1 import suite_pb2, validation_service_pb2_grpc
from setpoint.validation.v1 import validation_service_pb2 as pb
from setpoint_columns import Columns
from setpoint_columns import proto as columns_proto
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors
from setpoint_validation.domain.suite import Snapshot


def request_id() -> str:
    """Return a new request id."""
    return str(uuid.uuid4())


def not_null(column: str, rule_id: str = "") -> suite_pb2.Rule:
    """Return a rule that refuses nulls."""
    return suite_pb2.Rule(rule_id=rule_id, not_null=suite_pb2.NotNullRule(column=column))


def at_least(column: str, least: float, rule_id: str = "", *, flag: bool = False) -> suite_pb2.Rule:
    """Return a rule with a lower bound."""
    severity = suite_pb2.SEVERITY_FLAG if flag else suite_pb2.SEVERITY_REJECT
    bounds = suite_pb2.RangeRule(column=column, min=least)
    return suite_pb2.Rule(rule_id=rule_id, severity=severity, range=bounds)


def unique(*columns: str) -> suite_pb2.Rule:
    """Return a rule about whole batches."""
    return suite_pb2.Rule(unique=suite_pb2.UniqueRule(columns=columns))


def put_request(
    *rules: suite_pb2.Rule, name: str = "flights", feature_set: str = "", description: str = ""
) -> pb.PutSuiteRequest:
    """Return a request with an id of its own."""
    suite = suite_pb2.Suite(
        name=name, rules=rules, feature_set=feature_set, description=description
    )
    return pb.PutSuiteRequest(request_id=request_id(), suite=suite)


def batch_requests(
    pieces: Sequence[Columns],
    *,
    suite: str = "flights",
    version: str = "",
    source: str = "test",
    id_: str | None = None,
) -> Iterator[pb.ValidateBatchRequest]:
    """Yield the messages of a table in pieces; the first one carries the header alone if there is no piece."""
    header = pb.ValidateBatchRequest(
        request_id=request_id() if id_ is None else id_,
        suite=suite,
        suite_version=version,
        source=source,
    )
    if pieces:
        header.rows.CopyFrom(columns_proto.to_proto(pieces[0]))
    yield header
    for piece in pieces[1:]:
        yield pb.ValidateBatchRequest(rows=columns_proto.to_proto(piece))


@dataclass
class Validation:
    """A served validation service and what a test needs to call and inspect it."""

    stub: "validation_service_pb2_grpc.ValidationServiceAsyncStub"
    clock: clocks.ManualClock
    database_url: str


class FakeRules:
    """Implements `ports.RuleSource`: rules that change, and a store that goes away, as the test says."""

    def __init__(self) -> None:
        """Begin without rules."""
        self.snapshot = Snapshot(1, ())
        self.error: errors.SetpointError | None = None
        self.reads = 0
        """How often the whole snapshot was read."""

    async def get_revision(self) -> int:
        """Return the revision."""
        if self.error is not None:
            raise self.error
        return self.snapshot.revision

    async def get_snapshot(self) -> Snapshot:
        """Return the rules."""
        if self.error is not None:
            raise self.error
        self.reads += 1
        return self.snapshot
