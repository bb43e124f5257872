"""Brings records to where they are kept, at least once, however long that takes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import getrandbits
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

SUSPECT_TRIES = 5
"""Of records that the receiver answers with a failure of its own, before they are looked at apart."""

SUSPECT_TRIES_OF_HALVES = 2

MAX_SUSPECTS = 8
"""After so many single records have failed and none was taken, any other is asked for: when it is not
taken either, it is the receiver that is broken."""

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

    def missing(self, records: int) -> None:
        """Note records that have been in the spool and are there no more."""
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
        self._next_sequence: int | None = None

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
            if not await self._deliver(piece.frames):
                # Read anew: by then others may have come whose fate says more.
                return True
            self._note_gap(piece.frames)
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

    async def _deliver(self, frames: Sequence[Frame]) -> bool:
        """Send frames until each is confirmed or buried; say whether that has come about.

        What is wrong with a record in the eyes of the receiver is found by halving. A refusal of its
        content is final. Any other answer may as well be the receiver's own trouble: such a record
        is only given up once others have been taken beside it. Else all of them are tried again.
        """
        search = _Search(self._send_patiently)
        try:
            await search.run(frames, SUSPECT_TRIES)
        except _NothingTakenError as nothing:
            self._observer.delayed()
            _LOGGER.error("monitoring takes no records at all, going on to try: %s", nothing.error)
            await asyncio.sleep(self._longest_pause_seconds)
            return False
        for frame, error in search.refused:
            await self._bury(frame, error)
        return True

    async def _send_patiently(self, frames: Sequence[Frame], tries: int) -> None:
        """Send, and try again for as long as it takes while the receiver is away.

        Raises:
            SetpointError: The receiver has looked at the records and does not take them; after so
                many tries where a repetition might help.
        """
        payloads = [each.payload for each in frames]
        size = sum(map(len, payloads))
        answered = 0

        def is_worth_repeating(error: BaseException) -> bool:
            nonlocal answered
            if not isinstance(error, errors.SetpointError) or _is_refusal(error):
                return False
            answered += not _is_absence(error)
            return answered < tries

        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_worth_repeating),
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
        reason = {"kind": type(error).__name__, "reason": error.reason.value, "text": error.message}
        while True:
            try:
                await asyncio.to_thread(self._folder.bury, frame.sequence, frame.payload, reason)
            except OSError:
                _LOGGER.exception("dead letter %d cannot be kept yet", frame.sequence)
                await asyncio.sleep(self._longest_pause_seconds)
            else:
                return

    def _note_gap(self, frames: Sequence[Frame]) -> None:
        """Report records that have been in the spool and are there no more."""
        missing = 0
        for each in frames:
            if self._next_sequence is not None:
                missing += max(0, each.sequence - self._next_sequence)
            self._next_sequence = each.sequence + 1
        if missing:
            self._observer.missing(missing)
            _LOGGER.error(
                "%d record messages before number %d are missing from the spool",
                missing,
                frames[-1].sequence,
            )


class _NothingTakenError(Exception):
    """The receiver answers, but takes none of many records."""

    def __init__(self, error: errors.SetpointError) -> None:
        super().__init__(str(error))
        self.error = error


class _Search:
    """Finds the records that the receiver does not take."""

    def __init__(self, send: Callable[[Sequence[Frame], int], Awaitable[None]]) -> None:
        self._send = send
        self._frames: Sequence[Frame] = ()
        self._taken = 0
        self._suspected = 0
        self.refused: list[tuple[Frame, errors.SetpointError]] = []

    async def run(self, frames: Sequence[Frame], tries: int) -> None:
        """Send frames, by halves where that fails.

        Raises:
            _NothingTakenError: There is no telling whether it is the records or the receiver.
        """
        self._frames = frames
        await self._halve(frames, tries)
        if self._suspected and not self._taken:
            raise _NothingTakenError(self.refused[-1][1])

    async def _halve(self, frames: Sequence[Frame], tries: int) -> None:
        try:
            await self._send(frames, tries)
        except errors.SetpointError as error:
            if len(frames) > 1:
                middle = len(frames) // 2
                for half in (frames[:middle], frames[middle:]):
                    # The last word on a single record is well considered.
                    tries = SUSPECT_TRIES if len(half) == 1 else SUSPECT_TRIES_OF_HALVES
                    await self._halve(half, tries)
                return
            self.refused.append((frames[0], error))
            self._suspected += not _is_refusal(error)
            if self._suspected >= MAX_SUSPECTS and not self._taken:
                await self._probe(error)
        else:
            await self._note_taken(len(frames))

    async def _probe(self, error: errors.SetpointError) -> None:
        """Ask for any of the records that were not looked at: suspects may stand in a row.

        It is sent once more in its turn, which the receiver tolerates.

        Raises:
            _NothingTakenError: That one is not taken either.
        """
        left = self._frames[len(self.refused) :]
        if not left:
            raise _NothingTakenError(error)
        try:
            await self._send([left[getrandbits(32) % len(left)]], SUSPECT_TRIES_OF_HALVES)
        except errors.SetpointError as again:
            raise _NothingTakenError(again) from again
        await self._note_taken(1)

    async def _note_taken(self, count: int) -> None:
        is_first = not self._taken
        self._taken += count
        if is_first and self._suspected:
            # Until now the receiver itself may have been broken, so nothing was proved by it.
            suspects, self.refused = self.refused, []
            for frame, _ in suspects:
                await self._halve([frame], SUSPECT_TRIES)


def _is_absence(error: errors.SetpointError) -> bool:
    """Say whether the receiver has not looked at the records at all."""
    if isinstance(error, errors.ResourceExhaustedError):
        return True
    return isinstance(
        error, (errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError)
    )


def _is_refusal(error: errors.SetpointError) -> bool:
    """Say whether the records themselves are refused; sending them again would change nothing."""
    if error.reason in (errors.Reason.MESSAGE_TOO_LARGE, errors.Reason.TOO_LARGE):
        return True
    return isinstance(error, errors.InvalidArgumentError)
