"""Rows with recorded answers: proof that a model says here what it said where it was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import FLOATS


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs, and what the model answered to them. An answer may differ by the tolerances together."""

    inputs: Columns
    outputs: Columns
    absolute_tolerance: float = 0.0
    relative_tolerance: float = 0.0
    """Of the recorded value."""

    def mismatch(self, answers: Mapping[str, npt.NDArray[Any]]) -> str | None:
        """Return how answers differ from the recorded ones, or None when they do not."""
        for column in self.outputs.columns:
            found = answers[column.name]
            if column.dtype in FLOATS:
                same = np.isclose(
                    found,
                    column.values,
                    rtol=self.relative_tolerance,
                    atol=self.absolute_tolerance,
                    equal_nan=True,
                )
            else:
                same = np.asarray(found == column.to_numpy(), bool)
            if not same.all():
                row = int(np.flatnonzero(~same)[0])
                return (
                    f"{column.name!r} of recorded row {row} is {found[row]}, not"
                    f" {column.item(row)}; {int((~same).sum())} of {column.rows} rows differ"
                )
        return None
