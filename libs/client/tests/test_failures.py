from typing import Any

import grpc
import pytest

from setpoint_client import failures
from setpoint_rpc import status
from setpoint_runtime import errors


class _Error(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, trailing: Any = (), details: str = "") -> None:
        self._code = code
        self._details = details
        self._trailing = trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing


def test_kinds_are_the_reverse_of_the_servers_table() -> None:
    """Each code that servers send for a kind of error becomes that kind again."""
    for kind, code in status.CODES.items():
        assert failures.KINDS[code] is kind
    assert set(failures.KINDS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


def test_stream_that_broke_off_is_unavailable() -> None:
    """What grpc.aio says of a stream that ended under a write is no error of the server's."""
    broken = failures.typed_error(_Error(grpc.StatusCode.INTERNAL, (), "Internal error from Core"))
    other = failures.typed_error(_Error(grpc.StatusCode.INTERNAL, (), "internal error 7"))

    assert isinstance(broken, errors.UnavailableError)
    assert isinstance(other, errors.InternalError)


@pytest.mark.parametrize("kind", list(status.CODES))
def test_server_errors_come_back_whole(kind: type[errors.SetpointError]) -> None:
    """What the servers' own conversion sends is what is raised."""
    sent = kind(
        errors.Reason.IN_USE,
        "in use",
        violations=[errors.FieldViolation("a.b", "is used")],
        metadata={"by": "route"},
        retry_after_seconds=0.25,
    )
    code, _, trailing = status.to_status(sent)
    back = failures.typed_error(_Error(code, trailing))
    assert type(back) is kind
    assert (back.reason, back.violations, back.metadata) == (
        sent.reason,
        sent.violations,
        sent.metadata,
    )
    assert back.retry_after_seconds == 0.25


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
)
def test_bare_codes_have_a_reason(code: grpc.StatusCode) -> None:
    """An error of the transport, or of a server that is not ours, is typed as well."""
    error = failures.typed_error(_Error(code))
    assert error.message == code.name
    assert isinstance(error.reason, errors.Reason)


def test_broken_details_are_left_out() -> None:
    """Details that are no message do not hide the error."""
    trailing = [("grpc-status-details-bin", b"\xff\xff\xff")]
    error = failures.typed_error(_Error(grpc.StatusCode.NOT_FOUND, trailing))
    assert isinstance(error, errors.NotFoundError)


@pytest.mark.parametrize("value, forbids", [("-1", True), ("nonsense", True), ("250", False)])
def test_pushback_forbids_repeats(value: str, forbids: bool) -> None:
    """Only a number of milliseconds allows another attempt."""
    error = _Error(grpc.StatusCode.UNAVAILABLE, [("grpc-retry-pushback-ms", value)])
    assert failures.forbids_retry(error) is forbids
    assert not failures.forbids_retry(_Error(grpc.StatusCode.UNAVAILABLE))
