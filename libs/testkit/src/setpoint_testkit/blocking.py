"""Coroutines for callers without an event loop, whatever loop the test itself uses."""

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine to its end in a thread with a loop of its own.

    A fixture that is not a coroutine serves tests of every loop scope and plain tests alike; it
    must not touch the loop pytest-asyncio keeps in this thread.
    """
    with concurrent.futures.ThreadPoolExecutor(1, "setpoint-testkit") as pool:
        return pool.submit(asyncio.run, coroutine).result()
