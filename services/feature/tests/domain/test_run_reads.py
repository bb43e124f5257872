import random

import numpy as np

from setpoint_feature.domain import history, run, run_reads

KEYS = [b"a", b"b", b"longer than a word"]


def test_versions_reads_what_is_asked_for_and_nothing_else() -> None:
    """However many events a key has, those at other times are not read."""
    seed = random.Random(1)
    count = 300
    keys = [seed.choice(KEYS) for _ in range(count)]
    events = np.array([seed.randrange(20) for _ in range(count)], np.int64)
    sequences = np.arange(1, count + 1)
    rows = history.StoredRows(events, events, sequences, bytes(count), np.arange(count))
    made = run.Run.build(keys, rows, 1)
    asked = [b"unknown", *KEYS]
    pairs = sorted({(seed.randrange(4), seed.randrange(-1, 22)) for _ in range(40)})
    upto = 200

    found = run_reads.versions(made, asked, tuple(np.array(pairs, np.int64).T), upto)

    wanted = {
        (asked.index(key), event, sequence)
        for key, event, sequence in zip(keys, events.tolist(), sequences.tolist(), strict=True)
        if (asked.index(key), event) in pairs and sequence <= upto
    }
    answered = list(
        zip(
            found.keys.tolist(),
            found.rows.event_times.tolist(),
            found.rows.sequences.tolist(),
            strict=True,
        )
    )
    assert len(answered) == len(wanted) > 0
    assert set(answered) == wanted
