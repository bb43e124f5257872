"""Guard rails around regular expressions that strangers' text is searched with.

Python's `re` backtracks: a careless pattern can take for ever on a short text, and would hold up every
request beside it. What usually does so, a repeated group that itself repeats or branches, is refused.
People who write rules are trusted not to look for what is left.
"""

import re
from typing import Final

MAX_PATTERN_LENGTH: Final = 500

MAX_TEXT_LENGTH: Final = 2_000
"""Longer text is not searched and fails: an unanchored search may take quadratic time."""

_TOKEN: Final = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|\(|\)|\||[*+?]|\{\d*(?:,\d*)?\}|.", re.DOTALL
)
_BOUNDED: Final = re.compile(r"\{(?P<only>\d+)\}|\{0?,1\}")


def problem(pattern: str) -> str | None:
    """Returns the rule that a pattern breaks, or None for a good one."""
    if not pattern or len(pattern) > MAX_PATTERN_LENGTH:
        return f"must have 1 to {MAX_PATTERN_LENGTH} characters"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"must be a regular expression: {error}"
    if _repeats_what_varies(pattern):
        return (
            "must not repeat a group that repeats or branches inside, which can take for ever;"
            " repeat possessively, as in (?:a+,)*+"
        )
    return None


def _repeats_what_varies(pattern: str) -> bool:
    """Tells whether a group that can match in several ways is repeated with backtracking."""
    tokens = _TOKEN.findall(pattern)
    # For each open group, whether something in it can match in several ways.
    varies = [False]
    closed = False
    for position, token in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        group, closed = closed, False
        if token == "(":  # noqa: S105 - a token of the pattern
            varies.append(False)
        elif token == ")" and len(varies) > 1:  # noqa: S105 - a token of the pattern
            closed = varies.pop()
            varies[-1] = varies[-1] or closed
        elif token == "|":  # noqa: S105 - a token of the pattern
            varies[-1] = True
        elif _is_repeat(token) and position and not _is_modifier(tokens, position):
            if following != "+":
                if group:
                    return True
                varies[-1] = True
    return False


def _is_repeat(token: str) -> bool:
    if token in ("*", "+"):
        return True
    return len(token) > 1 and token[0] == "{" and _BOUNDED.fullmatch(token) is None


def _is_modifier(tokens: list[str], position: int) -> bool:
    """Tells whether a plus makes the quantifier before it possessive instead of repeating."""
    if tokens[position] != "+":
        return False
    before = tokens[position - 1]
    return before in ("*", "+", "?") or (len(before) > 1 and before[0] == "{")
