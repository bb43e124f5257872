"""What the service needs from outside, in its own words."""

import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import (
    batch,
    catalog,
    changes,
    definitions,
    history,
    retention,
    run,
    segments,
    skew,
    training_set,
    visibility,
)
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class Wish:
    """A mutating call that may come more than once."""

    request_id: str
    method: str
    fingerprint: bytes
    """Digest of what is asked for; the same id with another one is refused."""


Decide = Callable[[catalog.Catalog], definitions.Definition]
"""Makes of all stored definitions the one to store; raises when it refuses."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Definitions that were applied together."""

    revision: int
    """Of all definitions afterwards."""
    actor: str
    reason: str
    forced: bool
    apply_time: int
    changes: tuple[changes.Change, ...]


PlanAll = Callable[[catalog.Catalog], list[changes.Planned]]
"""Makes of all stored definitions the changes to apply; raises when it refuses."""


class LiveModels(Protocol):
    """Knows which model versions live, and on what."""

    async def uses(self) -> list[changes.Use]:
        """Returns the exact feature set of every live version that has one.

        Raises:
            SetpointError: Nobody can say.
        """
        ...


class DefinitionStore(Protocol):
    """Keeps definitions."""

    async def apply(self, wish: Wish, applied: Applied, plan: PlanAll) -> tuple[Applied, bool]:
        """Stores what `plan` leaves of all definitions, all of it or nothing, and that it was applied.

        Args:
            wish: The call.
            applied: Who applies and why, at which revision of the definitions.
            plan: What happens.

        Returns:
            What was applied, with the revision afterwards, and whether the call is a replay.

        Raises:
            AbortedError: ETAG_MISMATCH, when the definitions are at another revision.
            AlreadyExistsError: REQUEST_ID_REUSED.
        """
        ...

    async def is_answered(self, wish: Wish) -> bool:
        """Tells whether a call has been answered before, so that it is but a replay."""
        ...

    async def applied(self, before: int, limit: int) -> list[Applied]:
        """Returns what was applied below a revision, newest first."""
        ...

    async def load(self, since: int) -> list[catalog.Stored]:
        """Returns definitions whose revision is greater, in the order of their revisions."""
        ...

    async def register(self, wish: Wish, decide: Decide) -> tuple[definitions.Definition, bool]:
        """Stores what `decide` returns, given all definitions; registrations follow one another.

        Returns:
            The definition, and whether the call is a replay.

        Raises:
            AlreadyExistsError: REQUEST_ID_REUSED.
        """
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch."""

    first: int
    """Sequence of its first row."""
    last: int
    """Sequence of its last row; less than `first` when it has none."""
    replayed: bool
    view: int = 0
    """The view it was written to when it is a replay: since then the name may have got a newer version."""
    refused: bytes = b""
    """In a replay what was given with the batch."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch to be stored."""

    batch_id: str
    content: bytes
    """Digest of what the writer sent."""
    rows: batch.Batch
    """What is to be stored of it."""
    refused: bytes = b""
    """What a replay shall tell about the rest."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows a join over a span of times needs."""

    first: int
    """Earliest time asked for."""
    last: int
    """Latest time asked for."""
    upto: int
    """Rows with a greater sequence came after the read began."""
    exclusive: bool
    arrival: bool
    after: int = 0
    """Rows up to this sequence are known already."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Which rows a scan returns: the greatest known of each entity and event time."""

    start: int
    end: int
    """First event time that is not wanted."""
    known_at: int
    """Only rows that had arrived by then."""
    upto: int
    """Rows with a greater sequence came after the read began."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The settled part of a view's history, ready for searching."""

    runs: Sequence[run.Run]
    """In the order of their sequences."""
    upto: int
    """Last sequence that lies in them; what follows is read with `read_sequences` or `read_window`."""
    release: Callable[[], None]
    """Gives memory back that is not needed between two searches."""


class HistoryStore(Protocol):
    """Keeps every row ever written, but what retention removed.

    Sequences of a view count from 1 in commit order; gaps are rows that retention removed. Every read sees
    all rows, wherever they lie.
    """

    async def write(
        self, view: int, entries: Sequence[Entry]
    ) -> list[Written | errors.AlreadyExistsError]:
        """Stores batches in one transaction, in their order, each once.

        Returns:
            What became of each: REQUEST_ID_REUSED where the batch id came with other content.
        """
        ...

    async def last_sequences(self) -> dict[int, int]:
        """Returns the greatest sequence of every view that has rows."""
        ...

    async def read_sequences(self, view: int, after: int, upto: int) -> history.NamedRows:
        """Returns the rows with sequences after one and up to another, in their order."""
        ...

    async def read_greatest(self, view: int, after: bytes, limit: int) -> history.NamedRows:
        """Returns the greatest row of each of the next keys, in the order of the keys."""
        ...

    async def read_window(
        self, view: int, keys: Sequence[bytes], window: Window
    ) -> history.NumberedRows:
        """Returns, for some keys, rows that suffice to answer any time in a window."""
        ...

    async def read_keys(self, view: int, keys: Sequence[bytes], upto: int) -> history.NumberedRows:
        """Returns all rows of some keys."""
        ...

    async def read_versions(
        self,
        view: int,
        keys: Sequence[bytes],
        pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        upto: int,
    ) -> history.NumberedRows:
        """Returns all rows of some keys at some event times, and perhaps others of these keys.

        Args:
            view: Number of the view.
            keys: Different keys.
            pairs: Positions among the keys, and for each of them an event time.
            upto: Last sequence that is wanted.
        """
        ...

    def scan(self, view: int, scan: Scan, limit: int) -> AsyncIterator[history.NamedRows]:
        """Yields the rows of a scan in the order of their times, at most `limit` at once."""
        ...

    async def open(self, view: int, upto: int) -> Opened:
        """Returns the rows that lie in segments, as far as they end with a sequence or before.

        Raises:
            DataLossError: SEGMENT_DAMAGED, as every read that needs the segment.
            UnavailableError: SEGMENT_FOLDER_UNAVAILABLE, likewise.
        """
        ...

    async def retained(self) -> dict[int, retention.Retained]:
        """Returns what retention left of the history of each view that it removed rows of.

        What is read before this is asked lacks no rows but those that it tells of.
        """
        ...


@dataclass(frozen=True, slots=True)
class Removed:
    """What retention takes out of a segment."""

    retained: retention.Retained
    """What is complete afterwards."""
    revision: int
    """Of the definitions that it follows: one that came since may need the rows, or keep them longer."""


class SegmentTurn(Protocol):
    """The right to change segments, which one process has at a time.

    Each change is one transaction; one that cannot be made raises AbortedError and changes nothing.
    """

    async def live(self) -> dict[int, list[segments.Segment]]:
        """Returns the segments that hold rows now, by view, in the order of their sequences."""
        ...

    async def move(self, added: segments.Segment) -> None:
        """Lists a segment and deletes its rows from the database."""
        ...

    async def replace(
        self,
        old: Sequence[segments.Segment],
        new: segments.Segment,
        now: int,
        removed: Removed | None,
    ) -> None:
        """Puts a segment in the place of neighbours, whose files stay; notes what retention removed.

        Raises:
            AbortedError: ETAG_MISMATCH, when rows went by definitions that are no longer the newest.
        """
        ...

    async def thinned(self, segment: segments.Segment, horizon: int) -> None:
        """Notes that retention was applied to a segment as of a time."""
        ...

    async def retired(self, before: int) -> list[segments.Segment]:
        """Returns segments that were replaced before a time."""
        ...

    async def forget(self, retired: segments.Segment) -> None:
        """Takes a replaced segment off the list."""
        ...

    async def paths(self) -> set[str]:
        """Returns the paths of all segments, replaced ones included."""
        ...


class SegmentStore(Protocol):
    """Makes, reads and removes segments.

    Calls that touch files raise UnavailableError (SEGMENT_FOLDER_UNAVAILABLE).
    """

    def turn(self) -> AbstractAsyncContextManager[SegmentTurn | None]:
        """Gives the right to change segments, None while somebody else has it."""
        ...

    async def recent(self, view: int, after: int, upto: int, most_bytes: int) -> history.NamedRows:
        """Returns the first rows of a range that lie in the database, about so many bytes."""
        ...

    async def write(
        self, view: int, span: tuple[int, int], content: run.Run, thinned: int
    ) -> segments.Segment:
        """Stores rows as a file and reads it back; nothing refers to it yet."""
        ...

    async def open(self, segment: segments.Segment) -> run.Run:
        """Returns the rows of a segment.

        Raises:
            DataLossError: SEGMENT_DAMAGED.
        """
        ...

    def release(self, replaced: Sequence[segments.Segment] = ()) -> None:
        """Lets go of what is ready for reading of replaced segments, and of memory that reading took."""
        ...

    async def files(self) -> dict[str, int]:
        """Returns when each file was last changed, unfinished ones included."""
        ...

    async def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        ...


@dataclass(frozen=True, slots=True)
class Lookup:
    """Keys of one view version whose copies are wanted."""

    version: str
    keys: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Copies:
    """What the online store holds for a look-up."""

    mark: int | None
    """Up to which sequence the copies are complete; None when they are not to be taken for the whole."""
    values: list[bytes | None]


@dataclass(frozen=True, slots=True)
class Begun:
    """What tells whether an online store has kept everything since copies began to be filled."""

    token: str
    """Stands in the place of the watermark meanwhile; empty where that stays."""
    writes: str
    """Names the server's history of writes; empty where it is not told."""


class OnlineStore(Protocol):
    """Keeps the greatest row of each entity, and how much of each view's history it has seen.

    Every call raises UnavailableError (ONLINE_STORE_UNAVAILABLE) when the store does not answer.
    """

    async def read(self, lookups: Sequence[Lookup], seconds: float | None = None) -> list[Copies]:
        """Reads the copies of some keys of some views in one round trip.

        Args:
            lookups: What is wanted; a view may be looked up more than once.
            seconds: Longest time, where it is shorter than the store's own.
        """
        ...

    async def apply(
        self, version: str, values: Mapping[bytes, bytes], after: int, upto: int
    ) -> int:
        """Stores the values that are greater than those there and returns how many were.

        A watermark from `after` on and below `upto` becomes `upto`, atomically with the last of the values.
        Values begin with event time, created time and sequence, by which they are compared.
        """
        ...

    async def begin(self, version: str) -> tuple[Begun, ...]:
        """Notes that the copies of a view are filled from the beginning; returns what `finish` wants.

        Several may fill the same copies at the same time.
        """
        ...

    async def finish(self, version: str, begun: Sequence[Begun], upto: int) -> None:
        """Makes `upto` the watermark of copies that were filled since `begin`.

        Raises:
            UnavailableError: ONLINE_STORE_UNAVAILABLE, also when the store lost anything since `begin`.
        """
        ...

    async def watermarks(self, versions: Sequence[str]) -> list[int | None]:
        """Returns up to which sequence each view is complete, None where nothing is known."""
        ...


@dataclass(frozen=True, slots=True)
class RecordPage:
    """What predictions were served, from a stretch of the stored records."""

    rows: Sequence[skew.ServedRows]
    after: int
    """The record that the stretch begins after."""
    through: int
    """The record that it ends with."""
    newest: int
    """The newest record that there is."""


class Records(Protocol):
    """Prediction records, as monitoring keeps them."""

    async def next(self, after: int, share: int, until: int) -> RecordPage:
        """Returns a share, in basis points, of the records after one.

        Args:
            after: Number of a record; 0 begins with the first.
            share: Which part of them, always the same one.
            until: Only those that were stored by then; 0 means all.

        Raises:
            UnavailableError: They cannot be asked for now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far served features have been replayed."""

    through: int = 0
    newest: int = 0
    time: int = 0
    """When that was; 0 for never."""


class SkewStore(Protocol):
    """Keeps what replays have found."""

    async def progress(self) -> Progress:
        """Returns how far records have been replayed."""
        ...

    async def add(self, page: RecordPage, now: int, tallies: Sequence[skew.Tally]) -> bool:
        """Adds findings and moves on; False, and nothing done, when another replica did it first."""
        ...

    async def totals(
        self, feature_set: str, version: str, since_day: int, examples: int
    ) -> list[skew.Totals]:
        """Returns what was found from a day on.

        Args:
            feature_set: Name of the feature set; empty means all.
            version: Its version; empty means all.
            since_day: First day since 1970.
            examples: At most so many for each feature and cause.
        """
        ...

    async def written_times(self, view: int, sequences: npt.NDArray[np.int64]) -> visibility.Times:
        """Returns when rows were stored, by the database's clock."""
        ...


class Results(enum.Enum):
    """What is kept of calls and replays that are over."""

    REQUESTS = "requests"
    """Answers of registrations and snapshots, for calls that are repeated."""
    BATCHES = "batches"
    """Outcomes of written batches, for the same, and when rows were stored."""
    SKEW = "skew"
    """What replays of served features found, by day."""


class ResultStore(Protocol):
    """Lets go of results."""

    async def forget(self, what: Results, before: int, limit: int) -> int:
        """Deletes some results from before a time; returns how many, less than `limit` when none is left."""
        ...


class TrainingSetFiles(Protocol):
    """Keeps the rows of training sets. Every call raises UnavailableError when the folder is out of reach."""

    async def write(
        self, snapshot_id: str, number: int, rows: training_set.Rows
    ) -> training_set.Part:
        """Stores some rows as one part, for good once this returns."""
        ...

    async def read(self, found: training_set.TrainingSet, number: int) -> training_set.Rows:
        """Returns the rows of one part, as they were stored.

        Raises:
            DataLossError: SNAPSHOT_DAMAGED; the file is gone or was changed.
        """
        ...

    async def remove(self, snapshot_id: str) -> None:
        """Removes all parts of a training set."""
        ...

    async def stored(self) -> Mapping[str, int]:
        """Returns the ids of training sets of which there are files, and when the newest was written."""
        ...


class TrainingSetStore(Protocol):
    """Keeps what is known about training sets."""

    async def add(self, wish: Wish, made: training_set.TrainingSet) -> training_set.TrainingSet:
        """Stores one, once per request id; returns the one that is stored.

        Raises:
            AlreadyExistsError: REQUEST_ID_REUSED.
        """
        ...

    async def get(self, snapshot_id: str) -> training_set.TrainingSet:
        """Returns one.

        Raises:
            NotFoundError: SNAPSHOT_NOT_FOUND.
        """
        ...

    async def page(
        self, feature_set: str, before: str, limit: int
    ) -> list[training_set.TrainingSet]:
        """Returns the newest ones before one, of a feature set or all, by their ids."""
        ...

    async def delete(self, wish: Wish, snapshot_id: str) -> bool:
        """Removes one, once per request id; tells whether this is a replay.

        Raises:
            NotFoundError: SNAPSHOT_NOT_FOUND.
        """
        ...

    async def expire(self, now: int, limit: int) -> list[str]:
        """Removes some of those whose stated life is over; returns their ids."""
        ...

    async def missing(self, snapshot_ids: Sequence[str]) -> list[str]:
        """Returns which of some ids are of no training set."""
        ...
