"""What callers of one version wait while other versions are loaded beside it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from sklearn import ensemble
from tests.load.support import figures, loading, question
from tests.load.support.benchmark import Options
from tests.load.support.measures import Measure, Outcome

from setpoint_retraining.training import encoding

TITLE = "Loading: callers of one version while others are loaded beside it"

GOAL = 2.0
ROUNDS, SECONDS = 5, 6.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.5
RATE = 200.0
FOREST_TREES, FOREST_DEPTH = 150, 12
"""Make an artifact of some ten megabytes, which is inspected by a process of its own."""


async def run(options: Options, console: Console) -> Outcome:
    """Loads two kinds of models in a row beside a caller at a constant rate, in rounds."""
    rounds = QUICK_ROUNDS if options.is_quick else ROUNDS
    seconds = QUICK_SECONDS if options.is_quick else SECONDS
    console.print("training …")
    artifacts = await asyncio.to_thread(_artifacts, is_quick=options.is_quick)
    rows: list[Measure] = []
    for name, artifact in artifacts.items():
        found = []
        for number in range(rounds):
            console.print(f"{name}: round {number + 1} of {rounds} …")
            folder = options.folder / f"{name.replace(' ', '-')}-{number}"
            folder.mkdir()
            found.append(await _round(artifact, folder, seconds))
        rows += measures(name, found)
    notes = [
        f"one row at {RATE:g} questions a second, from a process of its own, on the same cores"
    ]
    return Outcome(rows, notes)


async def _round(artifact: bytes, folder: Path, seconds: float) -> loading.Found:
    return await loading.measure(
        artifact,
        folder,
        rate=RATE,
        seconds=seconds,
        settle_seconds=seconds / 4,
        tensor=encoding.NUMBERS,
    )


def _artifacts(*, is_quick: bool) -> dict[str, bytes]:
    trained = question.train()
    label = trained.numbers[:, :6].sum(axis=1) > 0
    forest = ensemble.RandomForestClassifier(
        n_estimators=10 if is_quick else FOREST_TREES,
        max_depth=FOREST_DEPTH,
        random_state=1,
        n_jobs=1,
    ).fit(trained.numbers, label)
    learned = encoding.Encoding.learn(question.FEATURES, {})
    return {
        "100 boosted trees": trained.artifact,
        f"forest of depth {FOREST_DEPTH}": encoding.to_onnx(forest, learned),
    }


def measures(name: str, found: Sequence[loading.Found]) -> list[Measure]:
    """Returns the rows of one kind of model; of the rounds the middle one counts."""
    ratio = figures.Spread.of([each.ratio for each in found])
    steady = figures.Spread.of([each.steady_p99 for each in found])
    load = figures.Spread.of([each.load_seconds for each in found])
    size = found[0].artifact_bytes / 1e6
    under = f"steady: {steady.middle:.1f} ms; rounds {ratio.least:.2f} to {ratio.greatest:.2f}"
    return [
        Measure(
            f"{name}: p99 while others load / steady p99", ratio.middle, "1", GOAL, "<=", under
        ),
        Measure(
            f"{name}: a load", load.middle, "s", None, "<=", f"{size:.1f} MB, one after the other"
        ),
    ]
