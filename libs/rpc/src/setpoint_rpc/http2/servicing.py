"""What handlers are told of their call, and what they say about its end."""

from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from setpoint_rpc.http2 import headers

if TYPE_CHECKING:
    from setpoint_rpc.http2.connection import Connection


class Servicing(grpc.aio.ServicerContext[Any, Any]):
    """The part of a handler's context that needs nothing of the stream; names are `grpc.aio`'s."""

    # Most calls leave these as they are.
    _code: grpc.StatusCode | None = None
    _details = ""
    _initial: headers.Metadata = ()
    _trailing: headers.Metadata = ()
    _deadline: float | None = None
    _connection: "Connection"
    _head: headers.Head

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Any = (),
    ) -> Any:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: Always.
        """
        self.set_code(code)
        self.set_details(details)
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        raise grpc.aio.AbortError(f"Locally aborted with {code}: {details}")

    async def abort_with_status(self, status: grpc.Status) -> Any:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: Always.
        """
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set what is sent with the status.

        Raises:
            ValueError: It cannot be sent.
        """
        self._trailing = headers.checked(trailing_metadata)

    def invocation_metadata(self) -> Any:
        """Return what the caller sent beside its request, as pairs."""
        return self._head.invocation_metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text of the status."""
        self._details = details

    def code(self) -> Any:
        """Return the status that was set, None when none was."""
        return self._code

    def details(self) -> str:
        """Return the text that was set."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return what will be sent with the status."""
        return self._trailing

    def time_remaining(self) -> Any:
        """Return the seconds left until the caller's deadline, None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def peer(self) -> str:
        """Return where the call comes from."""
        return self._connection.peer

    def auth_context(self) -> Any:
        """Return what the peer's certificate says of it, by gRPC's names for that."""
        return self._connection.auth_context()

    def peer_identities(self) -> Any:
        """Return the names in the peer's certificate, None when it showed none."""
        return self.auth_context().get(self.peer_identity_key())

    def peer_identity_key(self) -> str:
        """Return under which name `auth_context` has the peer's names."""
        return "x509_subject_alternative_name"

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: answers are sent as they are."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: answers are sent as they are."""
