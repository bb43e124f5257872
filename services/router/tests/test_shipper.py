"""Shipping: at least once, in order, past refusals and damage, for as long as it takes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from setpoint.monitoring.v1 import prediction_pb2
from setpoint_router import testing
from setpoint_router.adapters import peers as peers_module
from setpoint_router.adapters.spool import folder, frame, shipper, writer
from setpoint_rpc import channel
from setpoint_runtime import errors


@dataclass
class Counts:
    """What a shipper reports."""

    seen: dict[str, int] = field(default_factory=dict)

    def shipped(self, records: int, size: int) -> None:
        self.seen["shipped"] = self.seen.get("shipped", 0) + records

    def buried(self) -> None:
        self.seen["buried"] = self.seen.get("buried", 0) + 1

    def damaged(self, size: int) -> None:
        self.seen["damaged"] = self.seen.get("damaged", 0) + size

    def missing(self, records: int) -> None:
        self.seen["missing"] = self.seen.get("missing", 0) + records

    def delayed(self) -> None:
        self.seen["delayed"] = self.seen.get("delayed", 0) + 1


@dataclass
class Spool:
    """A writer and a shipper over one folder."""

    folder: folder.Folder
    writer: writer.Writer
    shipper: shipper.Shipper
    counts: Counts


@contextlib.asynccontextmanager
async def shipping(path: Path, send: shipper.Send, **options: Any) -> AsyncIterator[Spool]:
    """Runs a writer; ships only when told."""
    kept, counts = folder.Folder(path), Counts()
    spool = writer.Writer(kept, cap_bytes=options.pop("cap_bytes", 1 << 26))
    spool.open()
    ships = shipper.Shipper(kept, spool, send, counts, longest_pause_seconds=0.02, **options)
    try:
        yield Spool(kept, spool, ships, counts)
    finally:
        await spool.close()


class Sink:
    """Takes records, or does not."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.errors: list[errors.SetpointError] = []
        self.refuse: Callable[[bytes], bool] = lambda _: False

    async def send(self, records: Sequence[bytes]) -> None:
        if self.errors:
            raise self.errors.pop()
        if any(map(self.refuse, records)):
            raise errors.invalid("records", "?", "must be well formed")
        self.taken += records


async def test_ship_confirms_and_deletes(tmp_path: Path) -> None:
    """Shows that confirmed segments go, and that their bytes can be used again."""
    sink = Sink()
    async with shipping(tmp_path, sink.send, cap_bytes=80_000) as spool:
        wanted = [bytes([number]) * 5_000 for number in range(12)]
        for each in wanted:
            await spool.writer.append(each)
        used = spool.writer.bytes_used
        assert await spool.shipper.flush(20)
        assert sink.taken == wanted
        assert len(spool.folder.segments()) == 1
        assert spool.writer.bytes_used < used
        assert spool.counts.seen == {"shipped": 12}


async def test_ship_repeats_until_taken(tmp_path: Path) -> None:
    """Shows that a receiver that is away, slow or overloaded gets everything later, in order."""
    sink = Sink()
    sink.errors = [
        errors.UnavailableError(errors.Reason.UNAVAILABLE, "away"),
        errors.DeadlineExceededError(errors.Reason.DEADLINE_EXCEEDED, "slow"),
        errors.ResourceExhaustedError(errors.Reason.OVERLOADED, "busy"),
        errors.InternalError(errors.Reason.INTERNAL, "odd"),
    ]
    async with shipping(tmp_path, sink.send) as spool:
        for number in range(5):
            await spool.writer.append(bytes([number]))
        assert await spool.shipper.flush(20)
        assert sink.taken == [bytes([number]) for number in range(5)]
        assert spool.counts.seen == {"delayed": 4, "shipped": 5}


async def test_ship_buries_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shows that a record which is refused is kept aside loudly and holds up no other."""
    sink = Sink()
    sink.refuse = lambda record: record == b"poison"
    async with shipping(tmp_path, sink.send) as spool:
        for number in range(9):
            await spool.writer.append(b"poison" if number == 4 else bytes([number]))
        assert await spool.shipper.flush(20)
        assert sink.taken == [bytes([number]) for number in range(9) if number != 4]
        assert spool.counts.seen["buried"] == 1
    letters = list((tmp_path / "dead-letters").iterdir())
    assert [each.read_bytes() for each in letters if each.suffix == ".record"] == [b"poison"]
    reasons = [json.loads(each.read_text()) for each in letters if each.suffix == ".json"]
    assert [(each["sequence"], each["reason"]) for each in reasons] == [(5, "INVALID_FIELD")]
    assert "dead letter" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        errors.InternalError(errors.Reason.INTERNAL, "it crashed"),
        errors.FailedPreconditionError(errors.Reason.SIGNATURE_MISMATCH, "odd"),
        errors.ResourceExhaustedError(errors.Reason.MESSAGE_TOO_LARGE, "large"),
    ],
    ids=lambda error: error.reason.value,
)
async def test_ship_buries_what_breaks_receiver(
    tmp_path: Path, error: errors.SetpointError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that records on which the receiver breaks end as dead letters and hold up no other."""
    monkeypatch.setattr(shipper, "FIRST_PAUSE_SECONDS", 0.0001)
    taken: list[bytes] = []

    async def send(records: Sequence[bytes]) -> None:
        if any(record.startswith(b"poison") for record in records):
            raise error
        taken.extend(records)

    async with shipping(tmp_path, send) as spool:
        wanted = [b"poison" if number in (4, 30) else b"%d" % number for number in range(50)]
        for each in wanted:
            await spool.writer.append(each)
        assert await spool.shipper.flush(20)
        assert taken == [each for each in wanted if each != b"poison"]
        assert spool.counts.seen["buried"] == 2
        kept = [(int(each.stem), each.read_bytes()) for each in spool.folder.letters()]
        assert kept == [(5, b"poison"), (31, b"poison")]
        reasons = [spool.folder.reason_of(each) for each in spool.folder.letters()]
        assert {each["reason"] for each in reasons} == {error.reason.value}


async def test_ship_keeps_all_while_receiver_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that a receiver that breaks on everything costs no record: nothing is given up."""
    monkeypatch.setattr(shipper, "FIRST_PAUSE_SECONDS", 0.0001)
    sink, calls = Sink(), 0

    async def send(records: Sequence[bytes]) -> None:
        nonlocal calls
        calls += 1
        if calls < 200:
            raise errors.InternalError(errors.Reason.INTERNAL, "broken")
        await sink.send(records)

    async with shipping(tmp_path, send) as spool:
        for number in range(40):
            await spool.writer.append(bytes([number]))
        assert await spool.shipper.flush(20)
        assert sink.taken == [bytes([number]) for number in range(40)]
        assert "buried" not in spool.counts.seen
        assert not spool.folder.letters()


async def test_ship_gets_past_many_suspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that a row of records on which the receiver breaks does not hold up those behind it."""
    monkeypatch.setattr(shipper, "FIRST_PAUSE_SECONDS", 0.0001)
    sink = Sink()

    async def send(records: Sequence[bytes]) -> None:
        if b"poison" in records:
            raise errors.InternalError(errors.Reason.INTERNAL, "it crashed")
        await sink.send(records)

    async with shipping(tmp_path, send) as spool:
        for _ in range(12):
            await spool.writer.append(b"poison")
        wanted = [b"%d" % number for number in range(30)]
        for each in wanted:
            await spool.writer.append(each)
        assert await spool.shipper.flush(20)
        assert set(sink.taken) == set(wanted)
        assert [each.read_bytes() for each in spool.folder.letters()] == [b"poison"] * 12


@pytest.mark.parametrize("broken_calls", range(9, 41, 2))
async def test_ship_buries_nothing_when_receiver_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_calls: int
) -> None:
    """Shows that a receiver which recovers amid the search for bad records costs none of them."""
    monkeypatch.setattr(shipper, "FIRST_PAUSE_SECONDS", 0.0001)
    sink, calls = Sink(), 0

    async def send(records: Sequence[bytes]) -> None:
        nonlocal calls
        calls += 1
        if calls <= broken_calls:
            raise errors.InternalError(errors.Reason.INTERNAL, "broken")
        await sink.send(records)

    async with shipping(tmp_path, send) as spool:
        for number in range(16):
            await spool.writer.append(bytes([number]))
        assert await spool.shipper.flush(20)
        assert set(sink.taken) == {bytes([number]) for number in range(16)}
        assert not spool.folder.letters()


async def test_ship_waits_with_a_lone_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that a lone record is not given up before another one has been taken."""
    monkeypatch.setattr(shipper, "FIRST_PAUSE_SECONDS", 0.0001)
    sink, broken = Sink(), errors.InternalError(errors.Reason.INTERNAL, "it crashed")

    async def send(records: Sequence[bytes]) -> None:
        if b"poison" in records:
            raise broken
        await sink.send(records)

    async with shipping(tmp_path, send) as spool:
        await spool.writer.append(b"poison")
        for _ in range(3):
            assert await spool.shipper.ship_some()
        assert not spool.folder.letters()
        assert spool.shipper.position.offset == 0
        await spool.writer.append(b"sound")
        assert await spool.shipper.flush(20)
        assert sink.taken == [b"sound"]
        assert [each.read_bytes() for each in spool.folder.letters()] == [b"poison"]


async def test_ship_notices_missing_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Shows that records which vanish from the spool, a whole segment even, are told and counted."""
    sink = Sink()
    async with shipping(tmp_path, sink.send, cap_bytes=80_000) as spool:
        await spool.writer.append(b"first")
        assert await spool.shipper.flush(20)
        for number in range(12):
            await spool.writer.append(bytes([number]) * 5_000)
        lost = spool.folder.segments()[1]
        path = spool.folder.segment(lost)
        inside = path.read_bytes().count(frame.MARK)
        path.unlink()
        assert await spool.shipper.flush(20)
        assert spool.counts.seen["missing"] == inside > 0
        assert len(sink.taken) == 13 - inside
    assert "are missing from the spool" in caplog.text


async def test_ship_sets_damage_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shows that damage is kept, reported, and costs only what it hit."""
    sink = Sink()
    async with shipping(tmp_path, sink.send) as spool:
        for number in range(5):
            await spool.writer.append(f"record {number}".encode())
        path = spool.folder.segment(1)
        data = bytearray(path.read_bytes())
        data[data.index(b"record 2")] ^= 1
        path.write_bytes(data)
        assert await spool.shipper.flush(20)
        assert sink.taken == [f"record {number}".encode() for number in (0, 1, 3, 4)]
        assert spool.counts.seen["damaged"] > 0
    assert list((tmp_path / "quarantine").glob("*-damaged.bin"))
    assert "is damaged" in caplog.text


async def test_ship_goes_on_after_restart(tmp_path: Path) -> None:
    """Shows that a new process ships what the old one did not, and nothing twice without need."""
    sink = Sink()
    async with shipping(tmp_path, sink.send) as spool:
        await spool.writer.append(b"shipped")
        assert await spool.shipper.flush(20)
        await spool.writer.append(b"left behind")
    async with shipping(tmp_path, sink.send) as spool:
        await spool.writer.append(b"new")
        assert await spool.shipper.flush(20)
    assert sink.taken == [b"shipped", b"left behind", b"new"]


async def test_ship_without_position_repeats(tmp_path: Path) -> None:
    """Shows that a lost position means duplicates, never a loss."""
    sink = Sink()
    async with shipping(tmp_path, sink.send) as spool:
        await spool.writer.append(b"one")
        assert await spool.shipper.flush(20)
    (tmp_path / "position.json").unlink()
    async with shipping(tmp_path, sink.send) as spool:
        await spool.writer.append(b"two")
        assert await spool.shipper.flush(20)
    assert sink.taken == [b"one", b"one", b"two"]


async def test_ship_to_ingest_service(tmp_path: Path, peers: testing.Peers) -> None:
    """Shows over real gRPC that serialised records arrive as the messages they are, deduplicated."""
    async with channel.connect(peers.address, client="test") as to_peers:
        client = peers_module.MonitoringClient(to_peers)
        async with shipping(tmp_path, client.send) as spool:
            records = [_record(number) for number in range(40)]
            for each in records:
                await spool.writer.append(each.SerializeToString())
            peers.ingest.behaviour.error = errors.UnavailableError(
                errors.Reason.DATABASE_UNAVAILABLE, "away"
            )
            asyncio.get_running_loop().call_later(
                0.1, setattr, peers.ingest.behaviour, "error", None
            )
            assert await spool.shipper.flush(10)
    assert peers.ingest.records == records
    assert spool.counts.seen["delayed"] >= 1


def _record(number: int) -> prediction_pb2.PredictionRecords:
    record = prediction_pb2.PredictionRecords(route=f"r{number}", producer="x" * number * 10)
    record.predictions.rows = 0
    column = record.predictions.columns.add(name="prediction_id", offsets=bytes(4))
    column.dtype = 6  # type: ignore[assignment]  # STRING
    return record


def test_ingest_request_equals_message() -> None:
    """Shows that the request put together from bytes is what protobuf would have written."""
    from setpoint.monitoring.v1 import ingest_service_pb2

    records = [_record(number) for number in (0, 1, 13, 2_000)]
    built = peers_module.ingest_request([each.SerializeToString() for each in records])
    assert ingest_service_pb2.IngestPredictionsRequest.FromString(
        built
    ) == ingest_service_pb2.IngestPredictionsRequest(records=records)
