"""Calls that are refused before their requests have come."""

import asyncio
from typing import TYPE_CHECKING

from setpoint_rpc.http2 import endpoints, frames

if TYPE_CHECKING:
    from setpoint_rpc.http2.connection import Connection

# Clients of gRPC core take an answer that comes before they have sent their request for a failure of
# their own (INTERNAL), so a refusal waits so long for it.
_SECONDS = 0.02


class Refusals:
    """What some calls of a connection will be answered with."""

    def __init__(self, connection: "Connection") -> None:
        """Begin with none."""
        self._connection = connection
        self._waiting: dict[int, tuple[endpoints.Refusal, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: int, refusal: endpoints.Refusal) -> None:
        """Answer a call so when its request begins to come, or does not."""
        loop = self._connection.loop
        self._waiting[stream] = (refusal, loop.time() + _SECONDS)
        if self._timer is None:
            self._timer = loop.call_later(_SECONDS, self._tell_late)

    def tell(self, stream: int, *, is_end: bool) -> bool:
        """Answer, if this is such a call; say whether it is."""
        found = self._waiting.pop(stream, None)
        if found is None:
            return False
        self._connection.put(found[0].answer(stream))
        if not is_end:
            # The rest of the request is of no use.
            self._connection.put(frames.reset(stream, frames.ErrorCode.NO_ERROR))
        return True

    def forget(self, stream: int) -> bool:
        """The caller wants no answer any more; say whether it was to get one here."""
        return self._waiting.pop(stream, None) is not None

    def tell_all(self) -> None:
        """Answer all of them; the connection ends."""
        for stream in tuple(self._waiting):
            self.tell(stream, is_end=False)

    def clear(self) -> None:
        """The connection is gone."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _tell_late(self) -> None:
        self._timer = None
        loop = self._connection.loop
        for stream, (_, due) in tuple(self._waiting.items()):
            if due > loop.time():
                self._timer = loop.call_at(due, self._tell_late)
                return
            self.tell(stream, is_end=False)
