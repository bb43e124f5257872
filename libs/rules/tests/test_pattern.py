import time

import pytest

from setpoint_columns import Columns, DataType
from setpoint_rules import Regex, compile, pattern


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "^[A-Z]{2}$",
        r"^\d{4}-\d{2}-\d{2}$",
        r"(\d{3}-)+\d",
        "(ab)*c",
        "(?:a+,)*+",
        "(?:a++,)*",
        "(a+)b",
        "(a|b)c",
        "(a+){1}",
        "(a|b)?",
        "[(a+)]+",
        r"\(a+\)+",
        "x{2,}",
        "(?i)abc",
        "(?P<year>[0-9]{4})",
    ],
)
def test_problem_admits_plain_patterns(text: str) -> None:
    """Anchors, classes, counted groups and possessive repeats are fine."""
    assert pattern.problem(text) is None


@pytest.mark.parametrize(
    "text",
    ["(a+)+", "(a*)*b", "(?:a+,)*", "(a|b)+", "((a+)b)*", "(a+){2,}", "(x+y?){3,9}", "(a|a)*$"],
)
def test_problem_refuses_repeated_repeats(text: str) -> None:
    """A repeated group that can match in several ways is refused, with the way out named."""
    problem = pattern.problem(text)
    assert problem is not None
    assert "possessively" in problem


@pytest.mark.parametrize("text", ["(", "[", "*", "(?P<1>a)", "a{99999999999}", r"\q", "(?<=a+)b"])
def test_problem_names_what_does_not_compile(text: str) -> None:
    """A pattern that Python refuses is refused with Python's words."""
    assert (pattern.problem(text) or "").startswith("must be a regular expression")


def test_long_text_is_not_searched() -> None:
    """A megabyte of text fails at once instead of being searched for minutes."""
    rules = compile([Regex("a", "x.*y.*z")])
    batch = Columns.from_dict({"a": (DataType.STRING, ["x" * 1_000_000, "xyz"])})
    # Of the processor: what else the machine does is not counted.
    start = time.process_time()
    assert list(rules.check_rows(batch).rejections) == [0]
    assert time.process_time() - start < 1
