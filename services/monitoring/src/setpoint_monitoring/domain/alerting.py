"""The states of an alert: when it fires, and when it is over.

ok → pending at the first breach; pending → firing when 2 of the last 3 windows breach, → ok when no
second breach comes within 3; firing → resolved after 3 windows in a row below the warning level. A
window without enough data changes nothing and never counts as ok.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

WINDOWS = 3
BREACHES_TO_FIRE = 2
CALM_TO_RESOLVE = 3


class Reading(enum.Enum):
    """What one window says."""

    NO_DATA = "no_data"
    CALM = "calm"
    """Below the warning level."""
    WARNING = "warning"
    """Between the levels: neither a breach nor calm."""
    BREACH = "breach"


class State(enum.IntEnum):
    """Where an alert stands; the numbers are those of the contract, OK is none."""

    OK = 0
    PENDING = 1
    FIRING = 2
    ACKNOWLEDGED = 3
    RESOLVED = 4


@dataclass(frozen=True, slots=True)
class Progress:
    """An alert's state with what it remembers of earlier windows."""

    state: State = State.OK
    breaches: tuple[bool, ...] = ()
    """The last windows with data, oldest first, since the first breach: whether each breached."""
    calm: int = 0
    """Calm windows in a row while firing."""


def step(progress: Progress, reading: Reading) -> Progress:
    """Moves an alert by one window. RESOLVED and OK start anew at the next breach."""
    if reading is Reading.NO_DATA:
        return progress
    breach = reading is Reading.BREACH
    if progress.state in (State.OK, State.RESOLVED):
        return Progress(State.PENDING, (True,)) if breach else Progress(progress.state)
    if progress.state is State.PENDING:
        return _step_pending(progress, breach)
    calm = progress.calm + 1 if reading is Reading.CALM else 0
    if calm >= CALM_TO_RESOLVE:
        return Progress(State.RESOLVED)
    return replace(progress, calm=calm)


def _step_pending(progress: Progress, breach: bool) -> Progress:
    breaches = (*progress.breaches, breach)[-WINDOWS:]
    if sum(breaches) >= BREACHES_TO_FIRE:
        return Progress(State.FIRING)
    if not any(breaches) or len(breaches) >= WINDOWS:
        return Progress(State.OK)
    return Progress(State.PENDING, breaches)
