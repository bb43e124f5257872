import pickle
import re
from pathlib import Path

import pytest

from setpoint_runtime import errors

_CONTRACT = Path(__file__).parents[3] / "proto/setpoint/errordetails/v1/reason.proto"


def test_reasons_mirror_contract() -> None:
    """Code and contract know the same reasons, so neither side meets one it cannot name."""
    text = _CONTRACT.read_text(encoding="utf-8")
    contract = set(re.findall(r"^\s+REASON_(\w+) = \d+;", text, re.MULTILINE)) - {"UNSPECIFIED"}

    assert {reason.name for reason in errors.Reason} == contract
    assert all(reason.name == reason.value for reason in errors.Reason)


def test_invalid_names_field_value_and_rule() -> None:
    """The text tells all three, and the violation carries them in a form for programs."""
    error = errors.invalid("rows[3].amount", -5, "must be at least 0")

    assert error.message == "rows[3].amount: -5 must be at least 0"
    assert error.reason is errors.Reason.INVALID_FIELD
    assert error.violations == (errors.FieldViolation("rows[3].amount", "-5 must be at least 0"),)


@pytest.mark.parametrize("value", ["x" * 1_000_000, b"x" * 1_000_000, ["x" * 1_000_000]])
def test_invalid_shortens_value(value: object) -> None:
    """A megabyte of input does not become a megabyte of error."""
    assert len(errors.invalid("name", value, "must be short").message) < 200


def test_invalid_takes_precise_reason() -> None:
    """A caller may be told more exactly what is wrong."""
    error = errors.invalid("x", None, "must not be null", errors.Reason.NULL_REFUSED)

    assert error.reason is errors.Reason.NULL_REFUSED


def test_error_survives_pickle() -> None:
    """An error raised in a worker process arrives in its parent as it was."""
    error = errors.UnavailableError(
        errors.Reason.OVERLOADED,
        "busy",
        violations=[errors.FieldViolation("a", "b")],
        metadata={"model": "flights"},
        retry_after_seconds=0.5,
    )

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 — made one line above.

    assert type(copy) is errors.UnavailableError
    assert (copy.reason, copy.message) == (error.reason, error.message)
    assert copy.violations == error.violations
    assert dict(copy.metadata) == {"model": "flights"}
    assert copy.retry_after_seconds == 0.5


def test_text_shows_reason() -> None:
    """A log line of an error shows what programs match on."""
    error = errors.NotFoundError(errors.Reason.MODEL_NOT_FOUND, "no model flights")

    assert str(error) == "no model flights [MODEL_NOT_FOUND]"


def test_error_without_details_has_empty_ones() -> None:
    """Absent details are empty rather than None, so nobody has to ask."""
    error = errors.InternalError(errors.Reason.INTERNAL, "broken")

    assert error.violations == ()
    assert dict(error.metadata) == {}
    assert error.retry_after_seconds is None
