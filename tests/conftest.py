"""What tests of the whole house share: one running stack, started at its first use in a run."""

import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

# The shared modules below tests/ are imported by their place in the repository, however pytest
# was started.
ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

LOGS = ROOT / "var" / "e2e" / "logs"
"""What the shared stack wrote in the last run; the rest of its folder is removed."""

if TYPE_CHECKING:
    from tests.support import otlp
    from tests.support import world as worlds

    from setpoint_testkit import stacks


@pytest.fixture(scope="session")
def spans() -> "Iterator[otlp.Receiver]":
    """Receives the traces of the shared stack."""
    from tests.support import otlp

    receiver = otlp.Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest_asyncio.fixture(scope="session")
async def world(
    make_stack: "stacks.MakeStack", spans: "otlp.Receiver"
) -> "AsyncIterator[worlds.World]":
    """The shared stack, with a model of parcels that was trained, approved and routed in it.

    A test that stops a part of it starts that part again, whatever happens.
    """
    from tests.support import world as worlds

    environment = {**worlds.ENVIRONMENT, "OTEL_EXPORTER_OTLP_ENDPOINT": spans.endpoint}
    async with make_stack(environment=environment) as stack, worlds.connected(stack) as found:
        try:
            await worlds.settle(found)
            yield found
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(LOGS, ignore_errors=True)
                shutil.copytree(stack.directory / "logs", LOGS)
