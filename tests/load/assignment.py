"""Which version many keys get: the router's assignment of a batch, in this process."""

import itertools
from time import perf_counter

import numpy as np
import numpy.typing as npt
from rich.console import Console
from tests.load.support.benchmark import Options
from tests.load.support.measures import Measure, Outcome

from setpoint_router.domain import assignment

TITLE = "Assignment: keys of a batch to slots"

KEYS, QUICK_KEYS = 1_000_000, 100_000
BATCH = 10_000
"""Rows of the largest PredictBatch."""

ROUNDS = 5
GOAL = 5e6
"""Keys a second."""

SALT = "flight_late"
Keys = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


def made_keys(count: int, shortest: int, longest: int) -> Keys:
    """Returns keys of lower-case letters and digits as a column holds them."""
    random = np.random.default_rng(count)
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(random.integers(shortest, longest + 1, count), out=offsets[1:])
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8)
    return letters[random.integers(0, len(letters), int(offsets[-1]))], offsets


def keys_per_second(keys: Keys, rounds: int = ROUNDS) -> float:
    """Measures how many keys are assigned in a second, batch after batch; the best round counts."""
    data, offsets = keys
    count = len(offsets) - 1
    batches = [offsets[at : at + BATCH + 1] for at in range(0, count, BATCH)]
    best = float("inf")
    for _ in range(rounds):
        started = perf_counter()
        for batch in batches:
            first, last = int(batch[0]), int(batch[-1])
            assignment.slots_of_texts(SALT, data[first:last], batch - first)
        best = min(best, perf_counter() - started)
    return count / best


def one_by_one_per_second(keys: Keys, rounds: int = ROUNDS) -> float:
    """Measures the same with a call of the C library for each key, given as str."""
    data, offsets = keys
    raw = data.tobytes().decode()
    texts = [raw[start:stop] for start, stop in itertools.pairwise(offsets)]
    best = float("inf")
    for _ in range(rounds):
        started = perf_counter()
        assignment.slots_of(SALT, texts)
        best = min(best, perf_counter() - started)
    return len(texts) / best


async def run(options: Options, console: Console) -> Outcome:
    """Measures keys of typical lengths, in batches of 10,000."""
    count = QUICK_KEYS if options.is_quick else KEYS
    measures = []
    for shortest, longest in ((8, 36), (36, 36)):
        keys = made_keys(count, shortest, longest)
        alone = one_by_one_per_second(keys)
        named = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        console.print(f"{count:,} keys of {named} characters")
        measures.append(
            Measure(
                f"keys of {named} ASCII characters assigned",
                keys_per_second(keys),
                "1/s",
                GOAL,
                ">=",
                f"one thread, batches of {BATCH:,}; one call for each key: {alone:,.0f}/s",
            )
        )
    return Outcome(measures, [f"best of {ROUNDS} rounds"])
