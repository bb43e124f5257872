"""Dead letters can be looked at, and sent again once the receiver takes them."""

import asyncio
from pathlib import Path

import pytest

from setpoint.monitoring.v1 import prediction_pb2
from setpoint_router import dead_letters, testing
from setpoint_router.adapters.spool import folder


def letter(route: str) -> bytes:
    """Returns a record without predictions."""
    record = prediction_pb2.PredictionRecords(route=route)
    column = record.predictions.columns.add(name="prediction_id", offsets=bytes(4))
    column.dtype = 6  # type: ignore[assignment]  # STRING
    return record.SerializeToString()


@pytest.fixture
def kept(tmp_path: Path) -> folder.Folder:
    """A spool with three dead letters."""
    made = folder.Folder(tmp_path)
    for sequence, route in ((7, "good"), (30, "bad"), (100, "good")):
        made.bury(sequence, letter(route), {"reason": "INTERNAL", "text": "it crashed"})
    return made


def test_list_says_why(kept: folder.Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Shows that each letter is listed with number, size and reason, oldest first."""
    (kept.dead_letters / "00000000000000000030.json").unlink()
    assert dead_letters.main(["list", "--spool-directory", str(kept.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["7", "30", "100"]
    assert "INTERNAL: it crashed" in lines[0]
    assert "nothing is known" in lines[1]


async def test_replay_sends_again(
    kept: folder.Folder, peers: testing.Peers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shows that what is taken is gone, what is refused stays, and the status says which."""
    peers.ingest.refuse = lambda record: record.route == "bad"
    command = ["--spool-directory", str(kept.path), "--monitoring-address", peers.address]
    assert await asyncio.to_thread(dead_letters.main, ["replay", "7", *command]) == 0
    assert [int(each.stem) for each in kept.letters()] == [30, 100]
    assert await asyncio.to_thread(dead_letters.main, ["replay", *command]) == 1
    assert [int(each.stem) for each in kept.letters()] == [30]
    assert sorted(each.name for each in kept.dead_letters.iterdir()) == [
        "00000000000000000030.json",
        "00000000000000000030.record",
    ]
    assert [each.route for each in peers.ingest.records] == ["good", "good"]
    assert "30\trefused again\tINVALID_FIELD" in capsys.readouterr().out
    peers.ingest.refuse = None
    assert await asyncio.to_thread(dead_letters.main, ["replay", *command]) == 0
    assert kept.letters() == []
