"""Training sets that are kept: what they are, and a digest of what they hold."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import assemble, cutting, skew
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class ViewSequence:
    """How far the history of a view version reached."""

    view: str
    version: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of rows in a file of its own."""

    rows: int
    size: int
    digest: str
    """sha256 of the file."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A spine with its features, as a join answered them once."""

    snapshot_id: str
    feature_set: str
    version: str
    digest: str
    rows: int
    start_time: int
    end_time: int
    """First microsecond after the spine's times."""
    time_column: str
    arrival: bool
    columns: tuple[tuple[str, DataType], ...]
    spine_columns: int
    views: tuple[ViewSequence, ...]
    create_time: int
    description: str
    parts: tuple[Part, ...]
    expire_time: int = 0
    """When its stated life is over; 0 for never."""

    @property
    def stored_bytes(self) -> int:
        """Size of the files."""
        return sum(part.size for part in self.parts)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(name for name, _ in self.columns[self.spine_columns :])


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a training set."""

    spine: Columns
    served: assemble.Served

    @property
    def table(self) -> Columns:
        """All columns, the spine's first."""
        return Columns(self.spine.rows, [*self.spine.columns, *self.served.features.columns])

    def parts(self, max_bytes: int) -> "list[Rows]":
        """Cuts rows into parts of about `max_bytes`."""
        cuts = cutting.cuts(self.table, 9 * len(self.served.statuses), max_bytes)
        return [self.slice(start, stop) for start, stop in cuts]

    def slice(self, start: int, stop: int) -> "Rows":
        """Returns some of the rows."""
        served = assemble.Served(
            self.served.features.slice(start, stop),
            tuple(each[start:stop] for each in self.served.statuses),
            tuple(each[8 * start : 8 * stop] for each in self.served.event_times),
        )
        return Rows(self.spine.slice(start, stop), served)


def since(rows: Rows, time_column: str, time: int) -> Rows:
    """Returns those of some rows whose times are not before one."""
    places = np.flatnonzero(rows.spine[time_column].values >= time)
    served = assemble.Served(
        rows.served.features.take(places),
        tuple(np.frombuffer(each, np.uint8)[places].tobytes() for each in rows.served.statuses),
        tuple(np.frombuffer(each, "<i8")[places].tobytes() for each in rows.served.event_times),
    )
    return Rows(rows.spine.take(places), served)


class Digest:
    """sha256 of a table's content, fed piece after piece.

    Each column has hashes of its own, so the result does not depend on where pieces begin and end. What
    lies below a null is not part of the content.
    """

    def __init__(self) -> None:
        """Starts without any column."""
        self._columns: dict[str, tuple[str, list[hashlib._Hash]]] = {}
        self._rows = 0

    def add(self, rows: Rows) -> None:
        """Takes in further rows, with statuses and event times."""
        self.add_table(rows.table)
        served = rows.served
        for column, statuses, times in zip(
            served.features.columns, served.statuses, served.event_times, strict=True
        ):
            self._hashes(f"status of {column.name}", "STATUS", 1)[0].update(statuses)
            self._hashes(f"time of {column.name}", "TIME", 1)[0].update(times)

    def add_table(self, table: Columns) -> None:
        """Takes in further rows."""
        self._rows += table.rows
        for column in table.columns:
            valid, first, second = self._hashes(column.name, column.dtype.name, 3)
            present = np.ones(column.rows, np.bool_)
            if column.validity is not None:
                present = np.ascontiguousarray(column.validity)
            valid.update(present.view(np.uint8).data)
            if column.dtype is DataType.STRING:
                texts = [b"" if text is None else text.encode() for text in column.to_list()]
                first.update(np.array(list(map(len, texts)), "<i8").data)
                second.update(b"".join(texts))
            else:
                values = np.where(present, column.values, column.values.dtype.type(0))
                first.update(np.ascontiguousarray(values).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Returns the digest of what was taken in, hexadecimal."""
        header = [self._rows, [[name, kind] for name, (kind, _) in self._columns.items()]]
        total = hashlib.sha256(json.dumps(header, separators=(",", ":")).encode("ascii"))
        for _, hashes in self._columns.values():
            for each in hashes:
                total.update(each.digest())
        return total.hexdigest()

    def _hashes(self, name: str, kind: str, count: int) -> list["hashlib._Hash"]:
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = kind, [hashlib.sha256() for _ in range(count)]
        return found[1]


@dataclass(slots=True)
class Difference:
    """Rows of a training set that would come out otherwise."""

    rows: int
    by_feature: dict[str, int]
    removed: int = 0
    """Rows that were not compared: retention has removed what was known at their times."""

    @classmethod
    def none(cls, features: Sequence[str]) -> "Difference":
        """Returns no difference yet."""
        return cls(0, dict.fromkeys(features, 0))

    def add(self, kept: assemble.Served, now: assemble.Served) -> None:
        """Counts rows whose values or statuses differ."""
        anywhere = np.zeros(kept.features.rows, np.bool_)
        sides = zip(
            kept.features.columns,
            now.features.columns,
            kept.statuses,
            now.statuses,
            strict=True,
        )
        for before, after, status_before, status_after in sides:
            differs = skew.unequal(before, after)
            differs |= np.frombuffer(status_before, np.uint8) != np.frombuffer(
                status_after, np.uint8
            )
            self.by_feature[before.name] += int(np.count_nonzero(differs))
            anywhere |= differs
        self.rows += int(np.count_nonzero(anywhere))


def columns_of(spine: Columns, features: Columns) -> tuple[tuple[str, DataType], ...]:
    """Returns names and types of all columns."""
    both = (*spine.columns, *features.columns)
    return tuple((column.name, column.dtype) for column in both)


STATUS_PREFIX = "status of "
TIME_PREFIX = "time of "


def packed(rows: Rows) -> Columns:
    """Returns rows as one table, statuses and event times as columns."""
    extra: list[Column] = []
    served = rows.served
    for column, statuses, times in zip(
        served.features.columns, served.statuses, served.event_times, strict=True
    ):
        codes = np.frombuffer(statuses, np.uint8).astype(np.int32)
        extra.append(Column(STATUS_PREFIX + column.name, DataType.INT32, codes))
        moments = np.frombuffer(times, "<i8").astype(np.int64)
        extra.append(Column(TIME_PREFIX + column.name, DataType.INT64, moments))
    return Columns(rows.spine.rows, [*rows.table.columns, *extra])


def unpacked(table: Columns, spine_columns: int, features: Sequence[str]) -> Rows:
    """Returns what `packed` made of rows."""
    spine = Columns(table.rows, table.columns[:spine_columns])
    served = assemble.Served(
        table.select(features),
        tuple(table[STATUS_PREFIX + name].values.astype(np.uint8).tobytes() for name in features),
        tuple(table[TIME_PREFIX + name].values.astype("<i8").tobytes() for name in features),
    )
    return Rows(spine, served)


def check_spine(spine: Columns, features: Sequence[str]) -> None:
    """Refuses a spine whose columns would be taken for features, or for what belongs to them.

    Raises:
        InvalidArgumentError: Names the column.
    """
    taken = {
        *features,
        *(STATUS_PREFIX + name for name in features),
        *(TIME_PREFIX + name for name in features),
    }
    for name in spine:
        if name in taken:
            rule = "must not have the name of a feature of the set"
            raise errors.invalid(f"spine.{name}", name, rule)
