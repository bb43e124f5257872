import pathlib
import sys
from collections.abc import Callable

import pytest

from setpoint_devstack import catalogue

STAND_IN = pathlib.Path(__file__).parent / "stand_in.py"
MakeService = Callable[..., catalogue.Service]


@pytest.fixture
def stand_in() -> MakeService:
    """Makes descriptions of services that run the stand-in."""

    def make(name: str, **fields: object) -> catalogue.Service:
        values: dict[str, object] = {"port": 7499, "database": False, **fields}
        command = (sys.executable, str(STAND_IN), name)
        return catalogue.Service(name, command=command, **values)  # type: ignore[arg-type]

    return make
