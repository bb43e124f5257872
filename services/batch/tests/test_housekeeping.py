"""What ended jobs leave behind."""

import os
from pathlib import Path

from setpoint_batch import testing
from setpoint_batch.adapters.work_folder import WorkFolder
from setpoint_batch.partition import forms, peers
from setpoint_batch.service import housekeeping
from setpoint_runtime import clock


class FakeStore:
    """Forgets what it is told, of as far as housekeeping looks."""

    before = 0

    async def forget(self, before_us: int) -> int:
        self.before = before_us
        return 1


def kept(folder: Path, age_seconds: float, name: str) -> Path:
    """Put a file that was used so long ago."""
    path = folder / "artifacts" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"x")
    os.utime(path, (testing.NOW / 1e6 - age_seconds,) * 2)
    return path


async def test_clean_removes_what_is_old(tmp_path: Path) -> None:
    """Files that nobody has used for the time go, others stay; a folder may be absent."""
    store, time = FakeStore(), clock.ManualClock(testing.NOW)
    folder = WorkFolder(tmp_path)
    await housekeeping.clean(store, folder, time, 100.0)  # type: ignore[arg-type]  # as far as it goes
    assert store.before == testing.NOW - 100_000_000
    old, new = kept(tmp_path, 101, "old"), kept(tmp_path, 99, "new")
    await housekeeping.clean(store, folder, time, 100.0)  # type: ignore[arg-type]  # as far as it goes
    assert (old.exists(), new.exists()) == (False, True)


async def test_use_keeps_an_artifact(tmp_path: Path) -> None:
    """An artifact that is run is kept for another while."""
    task = testing.task(tmp_path, "")
    [path] = (tmp_path / "work" / "artifacts").iterdir()
    os.utime(path, (1_000.0, 1_000.0))
    model = forms.model_of(task["model"])
    assert await peers.artifact(task, model) == testing.ONNX
    assert path.stat().st_mtime > 1_000.0
    assert WorkFolder(tmp_path / "work").remove_unused(2_000.0) == 0
