"""Feast beside the feature service: in an environment of its own, on the same Valkey and the same rows."""

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from tests.load.support import environments, ledger, rates

REQUIREMENTS = ("feast[redis,duckdb]==0.67.0",)
SETTINGS = (
    "in-process, redis-py with hiredis, entity_key_serialization_version 3, registry "
    "cache_ttl_seconds 3600, no TTL, online by feature references and by a feature service with "
    "precompute_online, of which the better counts, offline with dask (what file means) and duckdb"
)
ONLINE = ("references", "precomputed")
OFFLINE = ("dask", "duckdb")
_WORKER = Path(__file__).with_name("feast_worker.py")
_LINE_BYTES = 1 << 26
_SHOWN_LINES = 5


class Feast:
    """Asks the process that has it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.written_rate = 0.0
        """Rows a second into its online store."""

    async def ask(self, action: str, **told: Any) -> Any:
        """Has something done.

        Raises:
            RuntimeError: It ended instead; with its last lines.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("it was started with pipes")
        self._process.stdin.write(json.dumps({"do": action, **told}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise RuntimeError("Feast ended: " + " ".join(lines[-_SHOWN_LINES:]))
        return json.loads(line)

    async def online(
        self, form: str, questions: Sequence[Any], callers: int, seconds: float
    ) -> rates.Reading:
        """Measures online reads."""
        asked = [each.tolist() for each in questions]
        told = {"form": form, "questions": asked, "callers": callers, "seconds": seconds}
        return rates.Reading(**await self.ask("online", **told))


@contextlib.asynccontextmanager
async def running(history: pl.DataFrame, valkey_url: str, folder: Path) -> AsyncIterator[Feast]:
    """Sets Feast up with a history, online and offline, until the end of the block.

    Raises:
        SetUpError: Its packages cannot be installed.
        RuntimeError: It does not start.
    """
    python = await environments.python_with("feast", REQUIREMENTS)
    folder.mkdir()
    log = folder / "worker.log"
    with log.open("w", encoding="utf-8") as complaints:
        process = await asyncio.create_subprocess_exec(
            *(str(python), str(_WORKER)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=complaints,
            limit=_LINE_BYTES,
        )
    try:
        feast = Feast(process, log)
        history.write_parquet(folder / "history.parquet")
        ledger.latest(history).write_parquet(folder / "latest.parquet")
        prepared = await feast.ask(
            "prepare",
            folder=str(folder),
            history=str(folder / "history.parquet"),
            latest=str(folder / "latest.parquet"),
            valkey=connection_string(valkey_url),
            key=ledger.KEY,
            event_time=ledger.EVENT_TIME,
            created_time=ledger.CREATED_TIME,
            fields=ledger.FIELDS,
        )
        feast.written_rate = prepared["written_rows_a_second"]
        yield feast
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def connection_string(url: str) -> str:
    """Returns the address of a Valkey as Feast wants it, with a database of its own."""
    parts = urllib.parse.urlsplit(url)
    login = f",password={parts.password}" if parts.password else ""
    return f"{parts.hostname}:{parts.port},db=1{login}"
