import pathlib
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from setpoint_devstack import catalogue

STAND_IN = pathlib.Path(__file__).parent / "stand_in.py"
BOUND_SECONDS = 15.0
MakeService = Callable[..., catalogue.Service]
WaitUntil = Callable[[Callable[[], bool]], None]
IsGone = Callable[[int], bool]


@pytest.fixture
def stand_in() -> MakeService:
    """Makes descriptions of services that run the stand-in."""

    def make(name: str, **fields: object) -> catalogue.Service:
        values: dict[str, object] = {"port": 7499, "database": False, **fields}
        command = (sys.executable, str(STAND_IN), name)
        return catalogue.Service(name, command=command, **values)  # type: ignore[arg-type]

    return make


@pytest.fixture
def wait_until() -> WaitUntil:
    """Polls until something holds; fails when it does not in time."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + BOUND_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
def is_gone() -> IsGone:
    """Says whether a process has ended; one that waits to be collected has."""

    def ask(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return ask
