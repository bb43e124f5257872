import itertools
from collections.abc import Callable

import numpy as np
import pytest
from tests.load import assignment as benchmark

from setpoint_router.domain import assignment


def test_made_keys_are_keys() -> None:
    """The benchmark's keys have the lengths that it names, differ, and get slots like any other."""
    data, offsets = benchmark.made_keys(500, 8, 36)
    lengths = np.diff(offsets)
    assert (lengths.min(), lengths.max()) == (8, 36)
    texts = [data[a:b].tobytes().decode() for a, b in itertools.pairwise(offsets)]
    assert len(set(texts)) == 500
    found = assignment.slots_of_texts(benchmark.SALT, data, offsets)
    assert found.tolist() == assignment.slots_of(benchmark.SALT, texts).tolist()


@pytest.mark.parametrize("measure", [benchmark.keys_per_second, benchmark.one_by_one_per_second])
def test_measures_count_keys(
    measure: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million keys in half a second are two million a second, whatever the machine."""
    moments = iter([0.0, 0.5, 1.0, 1.6])
    monkeypatch.setattr(benchmark, "perf_counter", lambda: next(moments))
    assert measure(benchmark.made_keys(1_000, 8, 8), rounds=2) == 2_000
