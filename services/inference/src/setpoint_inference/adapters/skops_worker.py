"""A process that runs one skops estimator: `python -I -m setpoint_inference.adapters.skops_worker`.

It reads the artifact and then tables from standard input and answers on standard output. It enters
the sandbox before it looks at the artifact. What it answers is not trusted either.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, BinaryIO

from setpoint_inference.adapters import sandbox

# First of all, because numpy may start threads; whoever only imports this stays where it is.
HAS_LEFT_NETWORK = __name__ == "__main__" and sandbox.leave_network()

import numpy as np  # noqa: E402

from setpoint_inference.adapters import frames  # noqa: E402


def main(*, has_left_network: bool) -> None:
    """Serve one estimator until standard input ends."""
    source = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    # An estimator that prints must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Imported while there are still files to import from; they are trusted, the artifact is not.
    import sklearn  # noqa: F401, PLC0415, RUF100
    import skops.io  # noqa: PLC0415, RUF100

    header, artifact = _read(source)
    held = sandbox.enter(header["memory_bytes"], has_left_network=has_left_network)
    if header["is_sandbox_required"] and not held.is_whole:
        lacking = [name for name, is_held in held._asdict().items() if not is_held]
        _answer(answers, {"unavailable": f"this system cannot isolate: {', '.join(lacking)}"})
        return
    try:
        untrusted = set(skops.io.get_untrusted_types(data=artifact))
        refused = sorted(untrusted - set(header["trusted"]))
        if refused:
            _answer(answers, {"untrusted": refused[:20]})
            return
        estimator = skops.io.loads(artifact, trusted=sorted(untrusted))
        missing = [name for name in header["methods"] if not hasattr(estimator, name)]
    except Exception as error:  # noqa: BLE001, RUF100 — whatever a file makes skops raise.
        _answer(answers, {"invalid": type(error).__name__})
        return
    _answer(answers, {"missing": missing} if missing else {"ready": held._asdict()})
    while not missing:
        header, body = _read(source)
        _answer(answers, *_run(estimator, header, body))


def _run(
    estimator: Any, header: dict[str, Any], body: bytes
) -> tuple[dict[str, Any], Sequence[frames.AnyArray]]:
    started = time.perf_counter()
    try:
        inputs = [frames.Expected(kind, tuple(shape)) for kind, shape in header["inputs"]]
        tensors = frames.arrays_of(header, body, inputs)
        table = tensors[0]
        if len(tensors) > 1:
            table = np.concatenate([each.astype(object) for each in tensors], axis=1)
        answers = [
            _fitted(getattr(estimator, name)(table), kind) for name, kind in header["outputs"]
        ]
        return {"seconds": time.perf_counter() - started}, answers
    except Exception as error:  # noqa: BLE001, RUF100 — the caller is told that it failed.
        return {"error": type(error).__name__, "seconds": time.perf_counter() - started}, []


def _fitted(answer: Any, kind: str) -> frames.AnyArray:
    array = np.asarray(answer)
    if kind == frames.TEXT:
        return np.array([str(each) for each in array.reshape(-1).tolist()], object)
    # A float must not lose its fraction on the way to a whole number.
    return array.astype(kind, casting="same_kind")


def _read(source: BinaryIO) -> tuple[dict[str, Any], bytes]:
    head = source.read(frames.LENGTHS.size)
    if len(head) < frames.LENGTHS.size:
        sys.exit(0)
    header, body = frames.lengths(head)
    content: dict[str, Any] = json.loads(source.read(header))
    return content, source.read(body)


def _answer(
    target: BinaryIO, header: dict[str, Any], arrays: Sequence[frames.AnyArray] = ()
) -> None:
    target.write(frames.encode(header, arrays))
    target.flush()


if __name__ == "__main__":
    main(has_left_network=HAS_LEFT_NETWORK)
