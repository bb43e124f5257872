"""Environments of their own for what the benchmarks compare with, kept below `var/`."""

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.load.support import children

FOLDER = children.ROOT / "var" / "bench" / "environments"
_READY = ".ready"
_SHOWN_LINES = 5


class SetUpError(Exception):
    """An environment could not be made."""


async def python_with(name: str, requirements: Sequence[str]) -> Path:
    """Returns the interpreter of an environment that holds packages; makes it at the first call.

    Raises:
        SetUpError: The packages cannot be installed, with the installer's last lines.
    """
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
    folder = FOLDER / f"{name}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / _READY).exists():
        await _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        await _uv("pip", "install", "--quiet", "--python", str(python), *requirements)
        (folder / _READY).touch()
    return python


async def _uv(*arguments: str) -> None:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uv", *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaints = await running.communicate()
    if running.returncode != 0:
        lines = complaints.decode(errors="replace").splitlines()[-_SHOWN_LINES:]
        raise SetUpError(" ".join(lines))
