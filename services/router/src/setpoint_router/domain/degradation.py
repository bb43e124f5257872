"""What was not as it should be with an answered prediction."""

import enum
from collections.abc import Iterable
from typing import NamedTuple


class DegradationKind(enum.IntEnum):
    """Kinds of degradation; the numbers are the contract's."""

    FEATURE_STALE = 1
    FEATURE_MISSING = 2
    FEATURE_DEFAULT = 3
    FEATURES_UNAVAILABLE = 4
    RULE_FLAGGED = 5
    CHECKS_SKIPPED = 6
    FALLBACK_VERSION = 7
    UNRECORDED = 8
    ENSEMBLE_PARTIAL = 9
    FEATURES_FROM_HISTORY = 10


OF_INPUTS = frozenset(
    {
        DegradationKind.FEATURE_STALE,
        DegradationKind.FEATURE_MISSING,
        DegradationKind.FEATURE_DEFAULT,
        DegradationKind.FEATURES_UNAVAILABLE,
        DegradationKind.FEATURES_FROM_HISTORY,
        DegradationKind.RULE_FLAGGED,
        DegradationKind.CHECKS_SKIPPED,
    }
)
"""Kinds that hold for whoever sees the same inputs."""


class Degradation(NamedTuple):
    """One of them and where: the feature, the view, the rule, the version."""

    kind: DegradationKind
    subject: str


class FeatureStatus(enum.IntEnum):
    """Where one input's value comes from; the numbers are those of the feature service's contract."""

    FRESH = 1
    STALE = 2
    MISSING = 3
    DEFAULT = 4
    GIVEN = 5


KIND_OF_STATUS = {
    FeatureStatus.STALE: DegradationKind.FEATURE_STALE,
    FeatureStatus.MISSING: DegradationKind.FEATURE_MISSING,
    FeatureStatus.DEFAULT: DegradationKind.FEATURE_DEFAULT,
}


def chosen_version(degradations: Iterable[Degradation]) -> int | None:
    """Returns the version that was chosen where the fallback stood in for it."""
    for kind, subject in degradations:
        if kind is DegradationKind.FALLBACK_VERSION:
            return int(subject)
    return None


def to_text(degradations: Iterable[Degradation]) -> str:
    """Returns the form that records and columns hold, `KIND:subject` pieces joined by commas."""
    return ",".join([f"{each.kind.name}:{each.subject}" for each in degradations])
