"""The labelled table of a run as a file, and how it is split."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from setpoint_columns import Columns, interop
from setpoint_retraining.domain import split

QUESTION_TIME = "question_time"
LABEL_TIME = "label_time"
LABEL = "label"

KEY_PREFIX = "key:"
"""Entity keys stand beside the inputs under this prefix: a key may also be an input."""

SCORE = "probability"
"""The served output: the probability that the label is true."""

DECISION_THRESHOLD = 0.5


def read_snapshot(path: Path) -> Columns:
    """Reads a snapshot file."""
    with pa.memory_map(str(path)) as source:
        return interop.from_arrow(pa.ipc.open_file(source).read_all())


def write_snapshot(columns: Columns, path: Path) -> None:
    """Writes a snapshot file; it appears whole or not at all."""
    partial = path.with_suffix(".partial")
    table = interop.to_arrow(columns)
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    partial.replace(path)


def masks(table: Columns, end: int, holdout: int, gap: int) -> split.Split:
    """Splits a snapshot."""
    return split.temporal_split(
        table[QUESTION_TIME].values, table[LABEL_TIME].values, end, holdout, gap
    )
