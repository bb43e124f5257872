"""What the READMEs tell a newcomer to type works, as it stands there."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support import departures
from tests.support import world as worlds

import workspace

# Starting a stack and training its model comes on top of what the snippets take.
pytestmark = pytest.mark.timeout(300)

READMES = (workspace.ROOT / "README.md", workspace.ROOT / "proto" / "README.md")
DOCUMENTED = {"router": "127.0.0.1:7400", "feature": "127.0.0.1:7402"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SNIPPET_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of code that calls a stack."""

    readme: Path
    language: str
    text: str

    def at(self, addresses: Mapping[str, str]) -> str:
        """Returns the text with the addresses of another stack, and nothing else changed."""
        text = self.text
        for service, documented in DOCUMENTED.items():
            text = text.replace(documented, addresses[service])
        return text


def snippets() -> list[Snippet]:
    """Finds the blocks that call a stack on its default ports, in the order of reading."""
    found = []
    for readme in READMES:
        for language, text in FENCE.findall(readme.read_text("utf-8")):
            if any(address in text for address in DOCUMENTED.values()):
                found.append(Snippet(readme, language, text))
    return found


def run(snippet: Snippet, addresses: Mapping[str, str]) -> str:
    """Runs a block where a reader would, with the environment's programs; returns its output."""
    text = snippet.at(addresses)
    command = [sys.executable, "-c", text] if snippet.language == "python" else ["sh", "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=SNIPPET_SECONDS,
        cwd=workspace.ROOT,
        env={**os.environ, "PATH": path},
    )
    assert finished.returncode == 0, f"{text}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


@pytest_asyncio.fixture(scope="module")
async def addresses(world: worlds.World) -> Mapping[str, str]:
    """A stack that has the demo's route, as after `make demo`."""
    await departures.settle(world)
    return world.stack.addresses


def test_snippets_of_readme_work_in_order(addresses: Mapping[str, str]) -> None:
    """Proves that the first call and the first prediction work in Python and with buf curl."""
    outputs = [run(snippet, addresses) for snippet in snippets()]
    assert all(output.strip() for output in outputs)
    together = "\n".join(outputs)
    assert "12.0" in together, "the value that was written is read back"
    assert '"shop_queue"' in together, "buf curl shows the view"
    assert "WRONG_TYPE" in together, "the typed error is shown"
    assert together.count("predictionId") == 1, "buf curl predicts"


def test_snippets_show_every_way_to_call() -> None:
    """Proves that the client, the bare stubs and buf curl are each shown."""
    shown = [snippet for snippet in snippets() if snippet.readme.parent == workspace.ROOT]
    texts = dict.fromkeys(("python", "sh"), "")
    for snippet in shown:
        texts[snippet.language] += snippet.text
    assert "setpoint_client" in texts["python"]
    assert "FeatureServiceStub" in texts["python"]
    assert "client.predict(" in texts["python"]
    assert texts["sh"].count("buf curl") == 2
