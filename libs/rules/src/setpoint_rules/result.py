"""What judging gives: results of rules over a batch, verdicts on rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_rules.rule import Severity
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True, eq=False)
class RuleResult:
    """How one rule went over a batch."""

    rule_id: str
    success: bool
    severity: Severity
    element_count: int
    """Rows looked at."""
    unexpected_count: int
    """Rows that fail."""
    missing_count: int
    """Null rows that were left out."""
    observed: float | None
    """What an aggregate rule measured; None where there was nothing to measure."""
    failing_rows: npt.NDArray[np.int64]
    """Indices of all failing rows, rising."""
    message: str
    """Names the column, the first failing value and the rule; empty on success."""


@dataclass(frozen=True, slots=True)
class RowFailure:
    """One rule that one row breaks."""

    rule_id: str
    severity: Severity
    column: str
    description: str
    """The value and the rule, such as `-3.0 must be at least 0.0`."""

    @property
    def message(self) -> str:
        """Names the column, the value, the rule and its id."""
        return f"{self.column}: {self.description} (rule {self.rule_id})"

    def error(self, field: str | None = None) -> errors.InvalidArgumentError:
        """Returns the error to answer with.

        Args:
            field: Path of the value in the request; by default the column's name.
        """
        where = self.column if field is None else field
        return errors.InvalidArgumentError(
            errors.Reason.RULE_VIOLATED,
            f"{where}: {self.description} (rule {self.rule_id})",
            violations=(errors.FieldViolation(where, self.description),),
            metadata={"field": where, "rule_id": self.rule_id},
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowVerdict:
    """Which rows may go on; rows without failure appear in neither mapping."""

    rows: int
    rejections: Mapping[int, RowFailure]
    """By row the first rule of severity REJECT that it breaks, in the order of the rules."""
    flags: Mapping[int, tuple[RowFailure, ...]]
    """By row every rule of severity FLAG that it breaks, in the order of the rules."""

    @property
    def ok(self) -> bool:
        """Whether no row breaks any rule."""
        return not self.rejections and not self.flags

    @property
    def reject_mask(self) -> npt.NDArray[np.bool_]:
        """True for each row that must not go on."""
        return _mask(self.rows, self.rejections)

    @property
    def flag_mask(self) -> npt.NDArray[np.bool_]:
        """True for each row that goes on flagged, or would, were it not rejected."""
        return _mask(self.rows, self.flags)


def _mask(rows: int, marked: Mapping[int, object]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(rows, np.bool_)
    if marked:
        mask[list(marked)] = True
    return mask
