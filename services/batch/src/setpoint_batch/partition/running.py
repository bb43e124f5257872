"""Running a model on rows: a row that it cannot answer is found and fails alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from setpoint_batch.partition import forms
from setpoint_batch.partition.values import RowErrors
from setpoint_columns import Columns
from setpoint_runtime import errors
from setpoint_scoring import packing
from setpoint_scoring.packing import Output
from setpoint_scoring.runner import Runner

MAX_FAILURES_ALONE = 8
"""After so many single rows have failed and none went well, the model is broken, not the rows."""

Rows = npt.NDArray[np.intp]


class Run:
    """A model's answers for some rows of a table."""

    def __init__(self, model: forms.Model, runner: Runner, inputs: Columns) -> None:
        """Prepare to answer; `run` does it."""
        self._model = model
        self._runner = runner
        self._inputs = inputs
        self.bad: RowErrors = {}
        self.parts: list[tuple[Rows, list[Output]]] = []

    def run(self, rows: Rows) -> None:
        """Answer rows together; when they fail, each half by itself."""
        if not len(rows):
            return
        is_whole = len(rows) == self._inputs.rows
        inputs = self._inputs if is_whole else self._inputs.take(rows)
        try:
            feeds = packing.pack(inputs, self._model.inputs)
            arrays = self._runner.run(feeds)
            outputs = packing.unpack(arrays, self._model.outputs, len(rows))
        except (errors.InvalidArgumentError, errors.InternalError) as error:
            is_broken = not self.parts and len(self.bad) >= MAX_FAILURES_ALONE
            if len(rows) > 1 and not is_broken:
                middle = len(rows) // 2
                self.run(rows[:middle])
                self.run(rows[middle:])
                return
            for row in rows.tolist():
                self.bad[row] = _told(error)
            return
        self.parts.append((rows, outputs))


def _told(error: errors.SetpointError) -> errors.SetpointError:
    if isinstance(error, errors.InvalidArgumentError):
        return error
    return errors.InternalError(
        errors.Reason.INFERENCE_FAILED, f"the model failed: {error.message}"
    )
