"""Story 15: what happened before was no surprise to any service.

Kills and bad input are part of life. A service warns of the first and answers the second; an error
in its log means that something happened which nobody has thought of.
"""

import json

import pytest
from tests.support import world as worlds

pytestmark = pytest.mark.timeout(300)

CALM = {"debug", "info", "warning"}


async def test_no_service_logged_an_error(world: worlds.World) -> None:
    """Proves that every line of every service is an event below the level of an error."""
    loud = []
    for service in world.stack.services:
        for line in world.stack.logs[service.name].read_text("utf-8").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                # A line that a kill cut off, or one that was printed past the log.
                loud += [line] if "Traceback" in line else []
                continue
            if event.get("level", "info") not in CALM:
                loud.append(line)
    assert not loud
