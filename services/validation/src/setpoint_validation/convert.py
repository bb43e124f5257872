"""Messages of the contract to and from what the service works with."""

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

from google.protobuf import message as protobuf_message

import setpoint_rules as rules
from setpoint.common.v1 import column_pb2
from setpoint.validation.v1 import suite_pb2
from setpoint.validation.v1 import validation_service_pb2 as pb
from setpoint_columns import Columns
from setpoint_columns import proto as columns_proto
from setpoint_rules import proto as rules_proto
from setpoint_runtime import errors
from setpoint_validation import ports
from setpoint_validation.domain.run import Run
from setpoint_validation.domain.suite import MAX_SUITE_BYTES, Snapshot, Suite, row_rules
from setpoint_validation.service.batches import Header


def request(message: protobuf_message.Message) -> ports.Request:
    """Return what makes a mutating call safe to repeat: its id, and its content."""
    content = message.SerializeToString(deterministic=True)
    return ports.Request(message.request_id, content)  # type: ignore[attr-defined]  # every mutating request has one


def rules_from_proto(message: suite_pb2.Suite) -> list[rules.Rule]:
    """Return the rules of a suite.

    Raises:
        InvalidArgumentError: The suite is too large, or a rule means nothing; names rule and field.
    """
    if message.ByteSize() > MAX_SUITE_BYTES:
        rule = f"must have at most {MAX_SUITE_BYTES}"
        reason = errors.Reason.TOO_LARGE
        raise errors.invalid("suite", f"{message.ByteSize()} bytes", rule, reason)
    return rules_proto.rules_from_proto(message.rules)


def suite_to_proto(suite: Suite) -> suite_pb2.Suite:
    """Return a suite as a message."""
    return suite_pb2.Suite(
        name=suite.name,
        version=suite.version,
        rules=rules_proto.rules_to_proto(suite.rules),
        feature_set=suite.feature_set,
        description=suite.description,
        create_time=suite.create_time,
    )


def snapshot_to_proto(snapshot: Snapshot) -> pb.WatchRulesResponse:
    """Return a snapshot as a message, row rules alone."""
    message = pb.WatchRulesResponse(revision=snapshot.revision)
    for suite in snapshot.suites:
        pushed = message.suites.add(
            name=suite.name,
            version=suite.version,
            feature_set=suite.feature_set,
            description=suite.description,
            create_time=suite.create_time,
        )
        pushed.rules.extend(rules_proto.rules_to_proto(row_rules(suite)))
    return message


def run_to_proto(run: Run) -> pb.ValidationRun:
    """Return a run as a message."""
    return pb.ValidationRun(
        run_id=run.run_id,
        suite=run.suite,
        suite_version=run.suite_version,
        source=run.source,
        passed=run.passed,
        rows=run.rows,
        results=[rules_proto.result_to_proto(result) for result in run.results],
        create_time=run.create_time,
    )


async def batch_from_proto(
    messages: AsyncIterator[pb.ValidateBatchRequest],
) -> tuple[Header, AsyncIterator[ports.Piece]]:
    """Return the header and the pieces of a streamed table.

    Raises:
        InvalidArgumentError: There is no message.
    """
    stream = aiter(messages)
    first = await anext(stream, None)
    if first is None:
        raise errors.invalid(
            "suite", "", "must be in the first message", errors.Reason.MISSING_FIELD
        )
    header = Header(first.request_id, first.suite, first.suite_version, first.source)
    return header, _pieces(header, first, stream)


async def _pieces(
    header: Header, first: pb.ValidateBatchRequest, later: AsyncIterator[pb.ValidateBatchRequest]
) -> AsyncGenerator[ports.Piece, None]:
    number = 0
    if first.HasField("rows"):
        yield partial(_columns, first.rows, number)
    # Lest the first piece stays in memory until the last one has come.
    del first
    async for message in later:
        number += 1
        _check_later(header, message, number)
        if message.HasField("rows"):
            yield partial(_columns, message.rows, number)


def _columns(message: column_pb2.ColumnBatch, number: int) -> Columns:
    return columns_proto.from_proto(message, f"requests[{number}].rows")


def _check_later(header: Header, message: pb.ValidateBatchRequest, number: int) -> None:
    """Check that a later message does not ask for something else."""
    for field in ("request_id", "suite", "suite_version", "source"):
        value = getattr(message, field)
        if value and value != getattr(header, field):
            raise errors.invalid(
                f"requests[{number}].{field}", value, "must be empty or as in the first message"
            )
