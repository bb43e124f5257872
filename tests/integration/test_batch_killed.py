"""The batch service, as a process of its own, is killed with -9 in the middle of a job."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import polars as pl
import psutil
import pytest
from tests.support import parcels
from tests.support.house import INPUTS, STATES, House

from setpoint.batch.v1 import batch_prediction_pb2 as messages
from setpoint.batch.v1 import batch_service_pb2, batch_service_pb2_grpc
from setpoint_devstack import ports
from setpoint_runtime import ids
from setpoint_testkit import databases as database_pool

PARTITIONS = 50
PARTITION_ROWS = 50
PATIENCE_SECONDS = 150.0
"""Two starts of a service and of its worker processes, on a busy machine."""


@asynccontextmanager
async def batch_service(
    home: House, database_url: str, folder: Path, port: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the service as its users do, in a process of its own."""
    settings = {
        "PORT": str(port),
        "METRICS_PORT": "0",
        "DATABASE_URL": database_url,
        "WORK_DIRECTORY": str(folder / "work"),
        "PROCESSES": "1",
        "NICENESS": "0",
        "PARTITION_ROWS": str(PARTITION_ROWS),
        "LEASE_SECONDS": "1",
        "DRAIN_SECONDS": "0",
        **{
            f"{name.upper()}_ADDRESS": home.addresses[f"{name}_address"]
            for name in ("registry", "feature", "validation")
        },
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "setpoint_batch"),
        env={**os.environ, **{f"SETPOINT_BATCH_{name}": text for name, text in settings.items()}},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def spec(folder: Path) -> messages.BatchPredictionSpec:
    return messages.BatchPredictionSpec(
        name="killed",
        event_time=parcels.midnight(2),
        model=parcels.MODEL,
        input=messages.BatchInput(url=str(folder / "in.parquet")),
        output=messages.BatchOutput(url=str(folder / "out")),
    )


def write_input(home: House, folder: Path) -> int:
    frame = home.questions().with_columns(
        queue=pl.col("distance") / 7,
        staff=pl.lit(3),
        sick_share=pl.lit(0.1),
        effort=pl.lit(1.0),
    )
    rows = PARTITIONS * PARTITION_ROWS
    many = pl.concat([frame.select(*INPUTS)] * (rows // len(frame)))
    many.write_parquet(folder / "in.parquet", row_group_size=PARTITION_ROWS)
    return len(many)


async def watched(
    stub: "batch_service_pb2_grpc.BatchServiceAsyncStub", job_id: str
) -> AsyncIterator[messages.BatchPrediction]:
    request = batch_service_pb2.WatchBatchPredictionRequest(batch_prediction_id=job_id)
    call = stub.WatchBatchPrediction(request, timeout=PATIENCE_SECONDS, wait_for_ready=True)
    async for seen in call:
        yield seen.batch_prediction


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
async def test_goes_on_after_kill(
    home: House, databases: database_pool.Databases, tmp_path: Path
) -> None:
    """After kill -9 the job goes on with what is not done; what was done is not done again."""
    rows = write_input(home, tmp_path)
    name, port = databases.create(), ports.free_port()
    url = databases.url(name)
    async with grpc.aio.insecure_channel(f"{ports.LOOPBACK}:{port}") as channel:
        stub = batch_service_pb2_grpc.BatchServiceStub(channel)
        async with batch_service(home, url, tmp_path, port) as process:
            started = await stub.StartBatchPrediction(
                batch_service_pb2.StartBatchPredictionRequest(
                    request_id=ids.uuid7(), spec=spec(tmp_path)
                ),
                timeout=PATIENCE_SECONDS,
                wait_for_ready=True,
            )
            job_id = started.batch_prediction.batch_prediction_id
            async for job in watched(stub, job_id):
                if job.progress.partitions_done:
                    break
            workers = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            await process.wait()
        assert 0 < job.progress.partitions_done < PARTITIONS
        assert not (tmp_path / "out").exists()
        # Its worker processes end by themselves.
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, PATIENCE_SECONDS)
        assert alive == []
        [scratch] = tmp_path.glob(".out*.new")
        written = {each.name: each.stat().st_ino for each in scratch.glob("part-*")}
        async with batch_service(home, url, tmp_path, port):
            job = [seen async for seen in watched(stub, job_id)][-1]
    assert job.state == STATES.BATCH_PREDICTION_STATE_SUCCEEDED, job
    assert (job.progress.rows_done, job.progress.partitions_done) == (rows, PARTITIONS)
    kept = {each.name: each.stat().st_ino for each in (tmp_path / "out").glob("part-*")}
    assert len(kept) == PARTITIONS
    # At most the part whose note was lost with the service is another file.
    again = [part for part, inode in written.items() if kept[part] != inode]
    assert len(again) <= 1
    found = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert sorted(found["row"]) == list(range(rows))
    databases.drop(name)
