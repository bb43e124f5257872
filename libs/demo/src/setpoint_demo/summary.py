"""The demo's result: what `summary.json` holds and what the reader sees."""

from __future__ import annotations

import calendar
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from setpoint_demo.quality import Quality


@dataclass(frozen=True, slots=True)
class Month:
    """One replayed month."""

    month: int
    predictions: int
    labelled: int
    late_rate: float
    serving_versions: list[int]
    serving: Quality
    first_version: Quality
    drift_alarms: int
    """Columns far from the training data of the version that answered most."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version and why it was chosen or not."""

    version: int
    trained_until: str
    train_rows: int
    trigger: str
    outcome: str
    metrics: dict[str, float]
    champion_metrics: dict[str, float]
    predictions: int


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """One revision of the route."""

    revision: int
    valid_from: str
    weights: dict[str, int]
    moved_slots: int
    reason: str


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that the demo measured. Times are in the unit that the name says."""

    predictions_answered: int
    predictions_failed: int
    records_written: int
    outcomes_delivered: int
    feature_rows_written: int
    versions: list[Version]
    rollout: list[RolloutStep]
    months: list[Month]
    alerts: list[str]
    predictions_per_s: float
    p50_ms: float
    p99_ms: float
    seconds: float
    explained_prediction_id: str
    replayed_values: int = 0
    """Served features that were computed again from the history."""
    differing_values: int = 0
    """Those that were not served as they were known, to the bit."""

    @property
    def complete(self) -> bool:
        """Every question was answered and every answer is recorded."""
        return not self.predictions_failed and self.records_written == self.predictions_answered

    def write(self, path: Path) -> None:
        """Writes the summary as JSON; a figure that could not be measured is null."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_without_nan(dataclasses.asdict(self)), indent=2, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value


def show(summary: Summary, console: Console) -> None:
    """Prints the summary."""
    console.rule("[bold]What happened")
    console.print(_months(summary))
    console.print(_versions(summary))
    console.print(_rollout(summary))
    for alert in summary.alerts:
        console.print(f"[yellow]alert[/] {alert}")
    asked = summary.predictions_answered + summary.predictions_failed
    recorded = summary.records_written == asked
    mark = "[green]all recorded[/]" if recorded else "[red]records are missing[/]"
    console.print(
        f"[bold]{summary.predictions_answered:,}[/] predictions answered, "
        f"{summary.predictions_failed:,} failed, {summary.records_written:,} records "
        f"({mark}), {summary.outcomes_delivered:,} outcomes, "
        f"{summary.feature_rows_written:,} feature rows"
    )
    same = "[green]0 differ[/]"
    if summary.differing_values:
        same = f"[red]{summary.differing_values:,} differ[/]"
    console.print(
        f"[bold]{summary.replayed_values:,}[/] served features computed again from the history, "
        f"as known when they were asked for: {same}"
    )
    console.print(
        f"[bold]{summary.predictions_per_s:,.0f}[/] predictions/s while asking, latency p50 "
        f"{summary.p50_ms:.1f} ms, p99 {summary.p99_ms:.1f} ms; {summary.seconds:.0f} s in all"
    )


def _months(summary: Summary) -> Table:
    table = Table(
        title="Quality by month: the version then serving, and the first one had it stayed",
        title_justify="left",
    )
    for heading in ("month", "predictions", "late", "serving", "log loss", "first version's"):
        table.add_column(heading, justify="left" if heading in ("month", "serving") else "right")
    for heading in ("better by", "ROC AUC", "first version's", "drifting columns"):
        table.add_column(heading, justify="right")
    for each in summary.months:
        gain = each.first_version.log_loss - each.serving.log_loss
        table.add_row(
            calendar.month_abbr[each.month],
            f"{each.predictions:,}",
            f"{each.late_rate:.1%}",
            ", ".join(f"v{version}" for version in each.serving_versions),
            f"{each.serving.log_loss:.4f}",
            f"{each.first_version.log_loss:.4f}",
            f"{gain:+.4f}",
            f"{each.serving.roc_auc:.3f}",
            f"{each.first_version.roc_auc:.3f}",
            str(each.drift_alarms),
        )
    return table


def _versions(summary: Summary) -> Table:
    table = Table(title="Versions and why each was chosen", title_justify="left")
    for heading in ("version", "trained until", "rows", "started by", "outcome", "predictions"):
        table.add_column(heading, overflow="fold")
    for each in summary.versions:
        table.add_row(
            f"v{each.version}",
            each.trained_until,
            f"{each.train_rows:,}",
            each.trigger,
            each.outcome,
            f"{each.predictions:,}",
        )
    return table


def _rollout(summary: Summary) -> Table:
    table = Table(title="The route's revisions", title_justify="left")
    for heading in ("revision", "from", "weights", "keys moved", "why"):
        table.add_column(heading, overflow="fold")
    for each in summary.rollout:
        weights = ", ".join(f"v{key} {share / 100:g} %" for key, share in each.weights.items())
        table.add_row(
            str(each.revision),
            each.valid_from,
            weights,
            f"{each.moved_slots / 100:g} %",
            each.reason,
        )
    return table
