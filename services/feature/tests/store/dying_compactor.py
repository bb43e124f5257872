"""A process that compacts and is killed at a step: `dying_compactor.py DATABASE FOLDER DIE`.

Each line of its input names a step; a child does the work and kills itself there, and its end is told in a
line of output. Children are forked before anything runs, which is quicker than starting each anew.
"""

import asyncio
import os
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

import sqlalchemy

from setpoint_columns import DataType
from setpoint_db import engine as engines
from setpoint_feature.domain import definitions, plan, segments
from setpoint_feature.service import compaction
from setpoint_feature.store import (
    history_store,
    segment_cache,
    segment_folder,
    segment_list,
    segment_store,
    tables,
)
from setpoint_runtime import clock as clocks

VIEW = 1


def die(*_: Any) -> None:
    """Ends as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def dies_after(owner: Any, name: str) -> None:
    """Lets a method do its work and then kills the process."""
    original: Callable[..., Any] = getattr(owner, name)

    async def later(*arguments: Any) -> None:
        await original(*arguments)
        die()

    def now(*arguments: Any) -> None:
        original(*arguments)
        die()

    setattr(owner, name, later if asyncio.iscoroutinefunction(original) else now)


def prepare(step: str, engine: Any) -> None:
    """Makes the process die at a step."""
    turn, folder = segment_list.SegmentTurn, segment_folder.SegmentFolder
    if step == "before-rename":
        setattr(folder, "rename", die)  # noqa: B010 — mypy forbids the plain assignment.
    elif step == "after-rename":
        dies_after(folder, "rename")
    elif step == "before-commit":
        deletes = []

        def note(*arguments: Any) -> None:
            if str(arguments[2]).startswith("DELETE FROM history"):
                deletes.append(arguments)

        def commits(*_: Any) -> None:
            if deletes:
                die()

        sqlalchemy.event.listen(engine.sync_engine, "after_cursor_execute", note)
        sqlalchemy.event.listen(engine.sync_engine, "commit", commits)
    elif step == "after-commit":
        dies_after(turn, "move")
    elif step == "after-merge":
        dies_after(turn, "replace")
    elif step == "after-removal":
        dies_after(folder, "remove")


async def work(url: str, folder_path: str, step: str) -> None:
    """Compacts once, until it dies."""
    engine = engines.create_engine(
        url, application_name="dying", schema=tables.SCHEMA, statement_seconds=30
    )
    prepare(step, engine)
    folder = segment_folder.SegmentFolder(folder_path, "store")
    cache = segment_cache.SegmentCache(folder, 1 << 30)
    store = segment_store.SegmentStore(engine, folder, cache)
    last = await history_store.SQLHistoryStore(engine, engine, cache).last_sequences()
    fields = (definitions.Field("value", DataType.STRING),)
    view = plan.CompiledView(definitions.FeatureView("v", "e", fields), VIEW)
    catalog = types.SimpleNamespace(compiled_views=lambda: [view], revision=0)
    known: Any = types.SimpleNamespace(catalog=catalog, last_sequences=last)
    limits = segments.Limits(0, 1, 150, 1 << 20)
    clock = clocks.ManualClock(1 << 60)
    await compaction.Compactor(store, known, clock, limits, (1.0, 0.0)).tick()


def main() -> None:
    """Forks a child for each step."""
    url, folder = sys.argv[1:]
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(work(url, folder, line.strip()))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 — the test reads it.


if __name__ == "__main__":
    main()
