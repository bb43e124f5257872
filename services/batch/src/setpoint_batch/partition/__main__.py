"""A worker process: tasks come on standard input, answers go to standard output, a line each.

When standard input closes, the process that asked is gone and nobody waits for the answer.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import BinaryIO

GAVE_UP = 3


def main() -> None:
    """Does tasks until standard input closes."""
    os.nice(int(sys.argv[1]))
    # Whatever a library prints must not look like an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(os.fdopen(0, "rb"), tasks), daemon=True)
    reader.start()
    # Slow to import, and a process that waits for its first task has the time.
    from setpoint_batch.partition import tasks as kinds

    while True:
        answer = kinds.run(json.loads(tasks.get()))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _read(file: BinaryIO, tasks: queue.SimpleQueue[bytes]) -> None:
    for line in file:
        tasks.put(line)
    # In the middle of a task as well: its output is nothing until it is whole.
    os._exit(GAVE_UP)


if __name__ == "__main__":
    main()
