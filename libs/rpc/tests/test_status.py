import inspect
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from setpoint_rpc import status
from setpoint_runtime import errors

_TEXT = st.text(max_size=3_000)


def _kinds() -> list[type[errors.SetpointError]]:
    return [
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, errors.SetpointError) and member is not errors.SetpointError
    ]


def _returned(error: errors.SetpointError) -> grpc.aio.AioRpcError:
    """Returns what a caller's stub raises for an error."""
    code, details, trailing = status.to_status(error)
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
    )


def _details_size(error: errors.SetpointError) -> int:
    _, _, trailing = status.to_status(error)
    return len(dict(trailing)["grpc-status-details-bin"])


def test_codes_cover_every_kind() -> None:
    """Each subclass of SetpointError has a code of its own, and nothing else is in the table."""
    assert set(status.CODES) == set(_kinds())
    assert len(set(status.CODES.values())) == len(status.CODES)


@pytest.mark.parametrize("kind", _kinds())
def test_error_returns_as_itself(kind: type[errors.SetpointError]) -> None:
    """What a service raises and what its caller catches have the same type and facts."""
    error = kind(
        errors.Reason.INVALID_FIELD,
        "price: -1 must be at least 0",
        violations=[errors.FieldViolation("price", "-1 must be at least 0")],
        metadata={"field": "price"},
        retry_after_seconds=1.25,
    )

    returned = status.from_rpc_error(_returned(error))

    assert type(returned) is kind
    assert returned.reason is error.reason
    assert returned.message == error.message
    assert returned.violations == error.violations
    assert dict(returned.metadata) == {"field": "price"}
    assert returned.retry_after_seconds == 1.25


def test_subclass_has_code_of_its_kind() -> None:
    """A service may make a type of its own without touching the table."""

    class LeakError(errors.FailedPreconditionError):
        pass

    error = LeakError(errors.Reason.FEATURE_LEAK, "leak")

    assert status.code_of(error) is grpc.StatusCode.FAILED_PRECONDITION


def test_error_of_no_kind_is_internal() -> None:
    """The base class alone says nothing about whose fault it is."""
    error = errors.SetpointError(errors.Reason.INTERNAL, "x")

    assert status.code_of(error) is grpc.StatusCode.INTERNAL


@given(
    message=_TEXT,
    violations=st.lists(st.tuples(_TEXT, _TEXT), max_size=60),
    metadata=st.dictionaries(_TEXT, _TEXT, max_size=60),
)
def test_details_stay_within_4_kib(
    message: str, violations: list[tuple[str, str]], metadata: dict[str, str]
) -> None:
    """However much is wrong, the answer fits, and the reason is in it."""
    error = errors.InvalidArgumentError(
        errors.Reason.WRONG_TYPE,
        message,
        violations=[errors.FieldViolation(field, text) for field, text in violations],
        metadata=metadata,
    )

    returned = status.from_rpc_error(_returned(error))

    assert _details_size(error) <= 4096
    assert returned.reason is errors.Reason.WRONG_TYPE
    assert len(returned.violations) <= 20


def test_first_violations_are_kept() -> None:
    """Of too many violations the first 20 are told."""
    violations = [errors.FieldViolation(f"rows[{i}]", "must not be null") for i in range(100)]
    error = errors.InvalidArgumentError(errors.Reason.NULL_REFUSED, "nulls", violations=violations)

    returned = status.from_rpc_error(_returned(error))

    assert returned.violations == tuple(violations[:20])


def test_worst_case_fills_no_more_than_allowed() -> None:
    """Longest texts in four-byte characters still leave room for the first violations."""
    wide = "🚀" * 5_000
    error = errors.InvalidArgumentError(
        errors.Reason.INVALID_FIELD,
        wide,
        violations=[errors.FieldViolation(wide, wide)] * 50,
        metadata={f"{i}{wide}": wide for i in range(50)},
    )

    returned = status.from_rpc_error(_returned(error))

    assert _details_size(error) <= 4096
    assert returned.violations


def test_lone_surrogates_are_replaced() -> None:
    """A text that is no valid Unicode is told as well as it can be."""
    error = errors.InvalidArgumentError(errors.Reason.INVALID_FIELD, "bad \ud800 text")

    assert status.from_rpc_error(_returned(error)).message == "bad ? text"


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("RESOURCE_EXHAUSTED", errors.ResourceExhaustedError, "MESSAGE_TOO_LARGE"),
        ("UNAVAILABLE", errors.UnavailableError, "UNAVAILABLE"),
        ("CANCELLED", errors.UnavailableError, "UNAVAILABLE"),
        ("DEADLINE_EXCEEDED", errors.DeadlineExceededError, "DEADLINE_EXCEEDED"),
        ("UNIMPLEMENTED", errors.UnimplementedError, "UNIMPLEMENTED"),
        ("UNAUTHENTICATED", errors.PermissionDeniedError, "PERMISSION_DENIED"),
        ("UNKNOWN", errors.InternalError, "INTERNAL"),
        ("NOT_FOUND", errors.NotFoundError, "INTERNAL"),
    ],
)
def test_bare_codes_get_kind_and_reason(
    code: str, kind: type[errors.SetpointError], reason: str
) -> None:
    """What the transport says by itself is typed by its code."""
    bare = grpc.aio.AioRpcError(
        grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(), details="transport"
    )

    returned = status.from_rpc_error(bare)

    assert type(returned) is kind
    assert returned.reason is errors.Reason(reason)
    assert returned.message == "transport"


def test_every_code_but_ok_is_typed() -> None:
    """No answer of any server leaves a caller without a type."""
    for code in set(grpc.StatusCode) - {grpc.StatusCode.OK}:
        bare = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
        assert isinstance(status.from_rpc_error(bare), errors.SetpointError)


def test_unknown_reason_is_kept_beside_its_kind() -> None:
    """A reason of a newer server is not mistaken for one of ours."""
    code, details, trailing = status.to_status(
        errors.NotFoundError(errors.Reason.RUN_NOT_FOUND, "gone")
    )
    newer = dict(trailing)["grpc-status-details-bin"]
    assert isinstance(newer, bytes)
    renamed = newer.replace(b"RUN_NOT_FOUND", b"RUN_FORGOTTEN")
    error = grpc.aio.AioRpcError(
        code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", renamed)),
        details=details,
    )

    returned = status.from_rpc_error(error)

    assert type(returned) is errors.NotFoundError
    assert returned.metadata["unknown_reason"] == "RUN_FORGOTTEN"


@pytest.mark.parametrize(
    "details",
    [b"\xff\xff\xff", status_pb2.Status(code=5, message="other").SerializeToString()],
    ids=["no message", "contradicts the code"],
)
def test_broken_details_are_ignored(details: Any) -> None:
    """A status that cannot be read leaves the code, which is still true."""
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", details)),
        details="down",
    )

    assert type(status.from_rpc_error(error)) is errors.UnavailableError
