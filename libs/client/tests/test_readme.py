import asyncio
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setpoint_client import Client

_README = Path(__file__).resolve().parents[1] / "README.md"


def test_examples_run(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The examples of the README do what they say, against a server that answers by the contract."""
    sync, asynchronous, streams = re.findall(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    exec(re.sub(r"127\.0\.0\.1:\d+", server.address, sync), {})  # noqa: S102 - the README's own text
    assert "'probability': 0.25" in capsys.readouterr().out
    names: dict[str, Any] = {}
    exec(asynchronous, names)  # noqa: S102 - the README's own text
    asyncio.run(names["ask"](server.address))
    assert "'probability': 0.25" in capsys.readouterr().out
    exec(streams, names)  # noqa: S102 - the README's own text
    with Client(router_address=server.address) as client:
        parts = iter([pl.DataFrame({"x": [1.0, 2.0]}), pl.DataFrame({"x": [3.0]})])
        assert names["score"](client, parts) == 3
        names["ask"](client, ["UA", "B6"])
    assert capsys.readouterr().out.count("'probability': 0.25") == 2
