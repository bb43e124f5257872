"""Brings records to where they are kept, at least once, however long that takes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import tenacity

from setpoint_router.adapters.spool import reader
from setpoint_router.adapters.spool.folder import Folder, Position
from setpoint_router.adapters.spool.frame import Frame
from setpoint_router.adapters.spool.writer import Writer
from setpoint_runtime import errors

_LOGGER = logging.getLogger(__name__)

BATCH_BYTES = 3 * 1024 * 1024
"""Of one call; a message has at most 4 MiB."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""Between attempts while the receiver is away: short enough to be back soon after it."""

PATIENCE_SECONDS = 10.0
"""How long the receiver may be away before the log says so."""

Send = Callable[[Sequence[bytes]], Awaitable[None]]


class ShipperObserver(Protocol):
    """Who counts what is shipped."""

    def shipped(self, records: int, size: int) -> None:
        """Note confirmed records."""
        ...

    def buried(self) -> None:
        """Note a record that the receiver refuses."""
        ...

    def damaged(self, size: int) -> None:
        """Note bytes that hold no readable record."""
        ...

    def delayed(self) -> None:
        """Note an attempt that failed."""
        ...


class Shipper:
    """Reads the spool behind the writer and sends what it finds, in order, one call at a time."""

    def __init__(
        self,
        folder: Folder,
        writer: Writer,
        send: Send,
        observer: ShipperObserver,
        *,
        interval_seconds: float = 0.1,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        """Prepare a shipper.

        Args:
            folder: The spool.
            writer: Who fills it.
            send: Sends records and returns once they are confirmed.
            observer: Counts.
            interval_seconds: Least time between two calls, so that a call carries many records.
            longest_pause_seconds: Between attempts while the receiver is away.
        """
        self._folder = folder
        self._writer = writer
        self._send = send
        self._observer = observer
        self._interval_seconds = interval_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._position = folder.read_position() or Position(0, 0)

    @property
    def position(self) -> Position:
        """How far records have been confirmed."""
        return self._position

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            self._writer.grown.clear()
            try:
                is_more = await self.ship_some()
            except OSError:
                # A disk that cannot be read now must not end the router; it may come back.
                _LOGGER.exception("the spool cannot be read")
                await asyncio.sleep(self._longest_pause_seconds)
                continue
            if not is_more:
                await self._writer.grown.wait()
            if self._interval_seconds:
                await asyncio.sleep(self._interval_seconds)

    async def flush(self, timeout_seconds: float) -> bool:
        """Ship what is there, for a time; say whether everything has been confirmed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while await self.ship_some():
                    pass
                return True
        return False

    async def ship_some(self) -> bool:
        """Ship the next records; say whether there was anything."""
        end = self._writer.durable
        if self._position >= end:
            return False
        piece = await asyncio.to_thread(reader.read, self._folder, self._position, end, BATCH_BYTES)
        for damage in piece.damages:
            await asyncio.to_thread(self._set_aside, damage)
        if piece.frames:
            await self._deliver(piece.frames)
        is_moved = piece.next != self._position
        self._position = piece.next
        if is_moved:
            self._writer.freed(await asyncio.to_thread(self._confirm))
        return is_moved

    def _confirm(self) -> int:
        """Keep the position, delete the segments nobody needs any more, return their bytes."""
        try:
            self._folder.write_position(self._position)
        except OSError:
            # A full disk must not end the shipping, which alone can empty it. Without the position
            # records are shipped twice after a crash.
            _LOGGER.warning("the ship position could not be kept", exc_info=True)
        try:
            return sum(self._folder.delete_before(self._position.segment))
        except OSError:
            _LOGGER.exception("shipped segments could not be deleted")
            return 0

    def _set_aside(self, damage: reader.Damage) -> None:
        self._observer.damaged(len(damage.data))
        name = f"{damage.segment}-{damage.start}-damaged.bin"
        try:
            self._folder.set_aside(name, damage.data)
        except OSError:
            _LOGGER.exception("damaged bytes of the spool could not be set aside")
        _LOGGER.error(
            "spool segment %d is damaged from byte %d on for %d bytes; kept in quarantine as %s",
            damage.segment,
            damage.start,
            len(damage.data),
            name,
        )

    async def _deliver(self, frames: Sequence[Frame]) -> None:
        """Send frames until they are confirmed; what is refused is found and buried."""
        try:
            await self._send_patiently(frames)
        except errors.InvalidArgumentError as error:
            if len(frames) > 1:
                middle = len(frames) // 2
                await self._deliver(frames[:middle])
                await self._deliver(frames[middle:])
                return
            await self._bury(frames[0], error)

    async def _send_patiently(self, frames: Sequence[Frame]) -> None:
        """Send, and try again for as long as it takes.

        Raises:
            InvalidArgumentError: A record is malformed; sending it again would change nothing.
        """
        payloads = [each.payload for each in frames]
        size = sum(map(len, payloads))
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_worth_repeating),
            wait=tenacity.wait_random_exponential(
                multiplier=FIRST_PAUSE_SECONDS, max=self._longest_pause_seconds
            ),
            stop=tenacity.stop_never,
            before_sleep=self._note_delay,
            reraise=True,
        ):
            with attempt:
                await self._send(payloads)
        self._observer.shipped(len(frames), size)

    def _note_delay(self, state: tenacity.RetryCallState) -> None:
        self._observer.delayed()
        error = state.outcome.exception() if state.outcome else None
        waited = state.seconds_since_start or 0.0
        level = logging.WARNING if waited > PATIENCE_SECONDS else logging.INFO
        _LOGGER.log(
            level,
            "records wait on disk since %.0f s, attempt %d: %s",
            waited,
            state.attempt_number,
            error,
        )

    async def _bury(self, frame: Frame, error: errors.SetpointError) -> None:
        self._observer.buried()
        _LOGGER.error("record %d was refused and becomes a dead letter: %s", frame.sequence, error)
        while True:
            try:
                await asyncio.to_thread(self._folder.bury, frame.sequence, frame.payload)
            except OSError:
                _LOGGER.exception("dead letter %d cannot be kept yet", frame.sequence)
                await asyncio.sleep(self._longest_pause_seconds)
            else:
                return


def _is_worth_repeating(error: BaseException) -> bool:
    """Say whether the same records may be taken later: everything but a refusal of their content."""
    return isinstance(error, errors.SetpointError) and not isinstance(
        error, errors.InvalidArgumentError
    )
