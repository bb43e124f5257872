"""What the README of the stubs tells another team to type works, as it stands there."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

import workspace
from setpoint_testkit import stacks

README = workspace.ROOT / "libs" / "protos" / "README.md"
DOCUMENTED = "127.0.0.1:7400"


def snippet(language: str, containing: str) -> str:
    """Finds the one block of code in a language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    [found] = [block for block in blocks if containing in block]
    assert DOCUMENTED in found
    return str(found)


def run(*command: str) -> str:
    """Runs a command where a reader would, with the environment's programs, and returns its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=workspace.ROOT,
        env={**os.environ, "PATH": path},
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest_asyncio.fixture(scope="module")
async def router(make_stack: stacks.MakeStack) -> AsyncIterator[str]:
    """The address of a router that knows no routes yet."""
    async with make_stack(["router"]) as stack:
        yield stack.addresses["router"]


def test_python_snippet_makes_a_call(router: str) -> None:
    """Proves that the Python block runs unchanged but for the port."""
    code = snippet("python", "ListRoutes").replace(DOCUMENTED, router)
    assert run(sys.executable, "-c", code) == "routes: []\n"


def test_buf_snippet_makes_a_call(router: str) -> None:
    """Proves that the shell block runs unchanged but for the port."""
    command = snippet("sh", "buf curl").replace(DOCUMENTED, router)
    assert run("bash", "-c", command).split() == ["{}"]
