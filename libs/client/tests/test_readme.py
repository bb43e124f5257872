import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

_README = Path(__file__).resolve().parents[1] / "README.md"


def test_examples_run(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The examples of the README do what they say, against a server that answers by the contract."""
    sync, asynchronous = re.findall(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    exec(re.sub(r"127\.0\.0\.1:\d+", server.address, sync), {})  # noqa: S102 - the README's own text
    assert "'probability': 0.25" in capsys.readouterr().out
    names: dict[str, Any] = {}
    exec(asynchronous, names)  # noqa: S102 - the README's own text
    asyncio.run(names["ask"](server.address))
    assert "'probability': 0.25" in capsys.readouterr().out
