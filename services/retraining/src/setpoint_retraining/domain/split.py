"""The temporal split: the youngest questions are held out, and nothing that overlaps them is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Split:
    """Row masks of shape [rows]; a row in neither belongs to the gap or is purged."""

    train: npt.NDArray[np.bool_]
    test: npt.NDArray[np.bool_]


def temporal_split(
    question_time: npt.NDArray[np.int64],
    label_time: npt.NDArray[np.int64],
    end: int,
    holdout: int,
    gap: int,
) -> Split:
    """Splits by the time of the question.

    Args:
        question_time: When each question was asked, microseconds, shape [rows].
        label_time: When each label became true, shape [rows].
        end: The data is known up to here.
        holdout: The questions of this long before the end are held out.
        gap: Questions of this long before the hold-out belong to neither side.

    Returns:
        The masks. A training row whose label became true only after the hold-out began is purged:
        a model trained when the hold-out began could not have known it.
    """
    test_start = end - holdout
    test = question_time >= test_start
    train = (question_time < test_start - gap) & (label_time < test_start)
    return Split(train, test)
