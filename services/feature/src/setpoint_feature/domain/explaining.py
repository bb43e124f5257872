"""Why one stored row of an entity won at a time, and each other one lost.

The winner is found by the search that answers joins, and every verdict by the view's own rule, so an
explanation cannot tell another story than the answer that it explains.
"""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import assemble, definitions, history, plan, point_in_time, wording


class Verdict(enum.IntEnum):
    """Why a row won or lost; the numbers equal those of the protocol's enum."""

    WON = 1
    EXPIRED = 2
    OLDER = 3
    TIE = 4
    LATE = 5
    FUTURE = 6
    BOUNDARY = 7


@dataclass(frozen=True, slots=True)
class Explanation:
    """All rows of one entity, judged at a time."""

    order: npt.NDArray[np.int64]
    """Positions of the rows in the past, greatest first."""
    verdicts: npt.NDArray[np.uint8]
    """Of the rows in that order."""
    winner: int | None
    """Place of the winner in that order."""

    def counts(self) -> Mapping[Verdict, int]:
        """Returns how many rows have each verdict that there is."""
        found, counts = np.unique(self.verdicts, return_counts=True)
        return dict(zip(map(Verdict, found.tolist()), counts.tolist(), strict=True))

    def anchor(self, past: history.Past, time: int) -> int:
        """Returns the place that is nearest to the question: the winner's, or where it would be."""
        if self.winner is not None:
            return self.winner
        return int(np.count_nonzero(past.rows.event_times > time))


def explain(past: history.Past, time: int) -> Explanation:
    """Judges the rows of one entity.

    Args:
        past: The rows, all with the number 0 as their key.
        time: The time of the question.
    """
    rows = past.rows
    times = np.full(len(rows), time, np.int64)
    found = int(past.search(np.zeros(1, np.int64), np.full(1, time, np.int64))[0])
    is_true = dataclasses.replace(past.rule, arrival=False).known(
        rows.event_times, rows.created_times, times
    )
    known = past.rule.known(rows.event_times, rows.created_times, times)
    verdicts = np.full(len(rows), Verdict.OLDER, np.uint8)
    verdicts[~known] = Verdict.LATE
    verdicts[~is_true] = Verdict.FUTURE
    verdicts[~is_true & (rows.event_times == times)] = Verdict.BOUNDARY
    if found != point_in_time.NO_ROW:
        verdicts[known & (rows.event_times == rows.event_times[found])] = Verdict.TIE
        is_stale = past.rule.stale(rows.event_times[found : found + 1], times[:1])[0]
        verdicts[found] = Verdict.EXPIRED if is_stale else Verdict.WON
    order = np.lexsort((rows.sequences, rows.created_times, rows.event_times))[::-1]
    winner = None if found == point_in_time.NO_ROW else int(np.flatnonzero(order == found)[0])
    return Explanation(order, verdicts[order], winner)


def single(view: plan.CompiledView, field: int) -> plan.Plan:
    """Returns a plan that reads one field of one view."""
    name = view.view.fields[field].name
    feature_set = definitions.FeatureSet(
        name, (definitions.FeatureReference(view.view.name, name),)
    )
    return plan.Plan(feature_set, (name,), (plan.Group(view, {}, (field,), (0,)),), 0)


def served(past: history.Past, field: int, time: int) -> assemble.Served:
    """Returns what joins answer for the entity, by the code that answers them."""
    winners = assemble.join(past, np.zeros(1, np.int64), np.full(1, time, np.int64))
    return assemble.serve(single(past.view, field), 1, [winners])


def reason(past: history.Past, found: Explanation, place: int, time: int) -> str:
    """Says in words why the row at a place won or lost."""
    rows, position = past.rows, int(found.order[place])
    event, created = int(rows.event_times[position]), int(rows.created_times[position])
    verdict = Verdict(int(found.verdicts[place]))
    if verdict is Verdict.FUTURE:
        return f"it becomes true {wording.duration(event - time)} after the question"
    if verdict is Verdict.BOUNDARY:
        return "it becomes true at the very time of the question, and the boundary is exclusive"
    if verdict is Verdict.LATE:
        return f"it arrived {wording.duration(created - time)} after the question"
    if verdict is Verdict.WON:
        return "it is the greatest row that was known"
    if verdict is Verdict.EXPIRED:
        too_old = wording.duration(time - event - past.rule.ttl)
        return f"it is the greatest row that was known, and {too_old} too old"
    if found.winner is None:
        raise AssertionError("a known row loses to a known row")
    best = int(found.order[found.winner])
    if verdict is Verdict.OLDER:
        return f"the winner is {wording.duration(int(rows.event_times[best]) - event)} younger"
    later = int(rows.created_times[best]) - created
    if later:
        return f"the winner has the same event time and arrived {wording.duration(later)} later"
    return "the winner has the same times and was written later"
