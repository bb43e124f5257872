"""Training sets that give the same content again later."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from setpoint_columns import Columns, DataType
from setpoint_feature import ports
from setpoint_feature.domain import retention, training_set
from setpoint_feature.service import joining
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

ABANDONED: Final = 86_400_000_000
"""Files of this age, in microseconds, that belong to nothing were left by a process that died."""

MAX_DESCRIPTION: Final = 4096
MAX_LIFE: Final = 100 * 366 * 86_400_000_000
_EXPIRED_AT_ONCE: Final = 100
_CLEAN_SECONDS: Final = 3600.0
_FIELD: Final = "spine"
_LOGGER = logging.getLogger(__name__)

Fingerprint = Callable[[str], bytes]
"""Makes of the digest of a spine that of the whole wish."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be kept."""

    request_id: str
    ask: joining.Ask
    description: str
    fingerprint: Fingerprint
    life: int = 0
    """Microseconds after which it is removed; 0 for never."""


class TrainingSets:
    """Makes, reads, compares and removes training sets."""

    def __init__(
        self,
        files: ports.TrainingSetFiles,
        store: ports.TrainingSetStore,
        historical: joining.HistoricalReader,
        clock: clocks.Clock,
        part_bytes: int,
    ) -> None:
        """Prepares; a part takes about `part_bytes`, so that it fits a message."""
        self._files = files
        self._store = store
        self._historical = historical
        self._clock = clock
        self._part_bytes = part_bytes

    async def create(
        self, wanted: Wanted, spines: AsyncIterator[Columns]
    ) -> tuple[training_set.TrainingSet, bool]:
        """Joins and keeps a spine; returns the training set, and whether the call is a replay.

        Raises:
            InvalidArgumentError: The spine is empty, or a column is missing, taken, or of another type.
            NotFoundError: FEATURE_SET_NOT_FOUND.
            AlreadyExistsError: REQUEST_ID_REUSED.
        """
        if len(wanted.description) > MAX_DESCRIPTION:
            rule = f"must have at most {MAX_DESCRIPTION} characters"
            raise errors.invalid("description", wanted.description, rule, errors.Reason.TOO_LARGE)
        if not 0 <= wanted.life <= MAX_LIFE:
            rule = f"must be 0 to {MAX_LIFE} (a hundred years)"
            raise errors.invalid("life_microseconds", wanted.life, rule)
        making = _Making(
            ids.uuid7(self._clock.now_us()), wanted, await self._historical.begin(wanted.ask)
        )
        is_wanted: bool | None = False
        try:
            async for spine in spines:
                for rows in await making.join(spine, self._part_bytes):
                    number = len(making.parts)
                    making.parts.append(await self._files.write(making.snapshot_id, number, rows))
            made, wish = making.made(self._clock.now_us())
            # Without an answer it may be stored or not; then its files are left to be cleaned if nothing has them.
            is_wanted = None
            stored = await self._store.add(wish, made)
            # A replay answers the training set of the first call, and its own rows are not needed.
            is_wanted = stored.snapshot_id == making.snapshot_id
        except errors.AlreadyExistsError:
            is_wanted = False
            raise
        finally:
            if is_wanted is False:
                await asyncio.shield(self._discard(making.snapshot_id))
        return stored, not is_wanted

    async def get(self, snapshot_id: str) -> training_set.TrainingSet:
        """Returns what is known about a training set.

        Raises:
            NotFoundError: SNAPSHOT_NOT_FOUND.
        """
        return await self._store.get(_checked(snapshot_id))

    async def page(
        self, feature_set: str, before: str, limit: int
    ) -> list[training_set.TrainingSet]:
        """Returns training sets, newest first."""
        return await self._store.page(feature_set, before, limit)

    async def read(self, snapshot_id: str) -> AsyncGenerator[training_set.Rows, None]:
        """Yields the rows of a training set, part by part.

        Raises:
            NotFoundError: SNAPSHOT_NOT_FOUND.
            DataLossError: SNAPSHOT_DAMAGED.
        """
        found = await self.get(snapshot_id)
        for number in range(len(found.parts)):
            try:
                rows = await self._files.read(found, number)
            except errors.DataLossError:
                # One that was removed meanwhile is not there, rather than damaged.
                await self.get(snapshot_id)
                raise
            yield rows

    async def compare(
        self, snapshot_id: str
    ) -> tuple[
        training_set.TrainingSet,
        training_set.Difference,
        training_set.Difference,
        tuple[training_set.ViewSequence, ...],
    ]:
        """Asks the question of a training set again, as it was asked and with all that is known now.

        Raises:
            NotFoundError: SNAPSHOT_NOT_FOUND, FEATURE_SET_NOT_FOUND.
            DataLossError: SNAPSHOT_DAMAGED.
            OutOfRangeError: HISTORY_REMOVED, when the history tells of none of its rows' times any more.
        """
        found = await self.get(snapshot_id)
        ask = joining.Ask(found.feature_set, found.version, found.time_column, found.arrival)
        again = await self._historical.begin(ask)
        now = await self._historical.begin(dataclasses.replace(ask, arrival=False))
        differences = [training_set.Difference.none(found.features) for _ in range(2)]
        for number in range(len(found.parts)):
            rows = await self._files.read(found, number)
            for join, difference in zip((again, now), differences, strict=True):
                await _compare(join, rows, found, difference)
        return found, differences[0], differences[1], again.sequences

    async def delete(self, wish: ports.Wish, snapshot_id: str) -> bool:
        """Removes a training set; tells whether the call is a replay.

        Raises:
            NotFoundError: SNAPSHOT_NOT_FOUND.
        """
        snapshot_id = _checked(snapshot_id)
        replayed = await self._store.delete(wish, snapshot_id)
        await self._discard(snapshot_id)
        return replayed

    async def clean(self) -> None:
        """Removes training sets whose life is over, and files that processes left which died, again and again."""
        while True:
            try:
                await self.expire_once()
                await self.clean_once()
            except errors.UnavailableError as error:
                _LOGGER.info("files of snapshots cannot be cleaned now: %s", error)
            await asyncio.sleep(_CLEAN_SECONDS)

    async def expire_once(self) -> int:
        """Removes training sets whose stated life is over; returns how many."""
        removed = 0
        while expired := await self._store.expire(self._clock.now_us(), _EXPIRED_AT_ONCE):
            for snapshot_id in expired:
                await self._discard(snapshot_id)
            removed += len(expired)
        return removed

    async def clean_once(self) -> int:
        """Removes files that belong to no training set and are a day old; returns of how many."""
        limit = self._clock.now_us() - ABANDONED
        stored = await self._files.stored()
        old = [each for each, time in stored.items() if time < limit and ids.is_uuid(each)]
        abandoned = await self._store.missing(old) if old else []
        for snapshot_id in abandoned:
            await self._files.remove(snapshot_id)
        return len(abandoned)

    async def _discard(self, snapshot_id: str) -> None:
        """Removes files of what is no training set; what cannot be removed is cleaned later."""
        try:
            await self._files.remove(snapshot_id)
        except errors.UnavailableError as error:
            _LOGGER.warning("files of snapshot %s are left behind: %s", snapshot_id, error)


async def _compare(
    join: joining.Join,
    rows: training_set.Rows,
    found: training_set.TrainingSet,
    difference: training_set.Difference,
) -> None:
    """Compares rows of a training set with what a join answers; counts those of whose times it does not tell."""
    try:
        served = await join.piece(rows.spine)
    except errors.OutOfRangeError as error:
        time = retention.complete_from_of(error)
        if time is None:
            raise
        left = training_set.since(rows, found.time_column, time)
        difference.removed += rows.spine.rows - left.spine.rows
        if difference.removed == found.rows:
            raise
        await _compare(join, left, found, difference)
        return
    await asyncio.to_thread(difference.add, rows.served, served)


class _Making:
    """A training set that comes into being."""

    def __init__(self, snapshot_id: str, wanted: Wanted, join: joining.Join) -> None:
        self.snapshot_id = snapshot_id
        self.parts: list[training_set.Part] = []
        self._wanted = wanted
        self._join = join
        self._content = training_set.Digest()
        self._spine = training_set.Digest()
        self._columns: tuple[tuple[str, DataType], ...] = ()
        self._spine_columns = 0
        self._times: list[int] = []

    async def join(self, spine: Columns, part_bytes: int) -> list[training_set.Rows]:
        """Joins a piece, and cuts it into parts."""
        names = training_set.columns_of(spine, Columns(spine.rows))
        if self._columns and names != self._columns[: self._spine_columns]:
            raise errors.invalid(
                _FIELD, list(spine.names), "must have the columns of the first piece"
            )
        served = await self._join.piece(spine)
        if not spine.rows:
            return []
        if not self._columns:
            training_set.check_spine(spine, served.features.names)
            self._columns = training_set.columns_of(spine, served.features)
            self._spine_columns = len(names)
        times = spine[self._wanted.ask.time_column].values
        self._times += [int(times.min()), int(times.max())]
        rows = training_set.Rows(spine, served)
        await asyncio.to_thread(self._take, rows)
        return rows.parts(part_bytes)

    def _take(self, rows: training_set.Rows) -> None:
        self._content.add(rows)
        self._spine.add_table(rows.spine)

    def made(self, now: int) -> tuple[training_set.TrainingSet, ports.Wish]:
        """Returns the training set, and the wish that it fulfils."""
        wanted, feature_set = self._wanted, self._join.feature_set
        if not self.parts:
            raise errors.invalid(_FIELD, 0, "must have rows", errors.Reason.MISSING_FIELD)
        made = training_set.TrainingSet(
            snapshot_id=self.snapshot_id,
            feature_set=feature_set.name,
            version=feature_set.version,
            digest=self._content.hexdigest(),
            rows=sum(part.rows for part in self.parts),
            start_time=min(self._times),
            end_time=max(self._times) + 1,
            time_column=wanted.ask.time_column,
            arrival=wanted.ask.arrival,
            columns=self._columns,
            spine_columns=self._spine_columns,
            views=self._join.sequences,
            create_time=now,
            description=wanted.description,
            parts=tuple(self.parts),
            expire_time=now + wanted.life if wanted.life else 0,
        )
        fingerprint = wanted.fingerprint(self._spine.hexdigest())
        return made, ports.Wish(wanted.request_id, "CreateSnapshot", fingerprint)


def _checked(snapshot_id: str) -> str:
    canonical = snapshot_id.lower()
    if not ids.is_uuid(canonical):
        raise errors.invalid("snapshot_id", snapshot_id, "must be a UUID")
    return canonical
