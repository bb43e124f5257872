import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from setpoint_testkit import workspace


def test_gives_a_folder_and_removes_it(tmp_path: pathlib.Path) -> None:
    """The folder lies below var/testkit, differs each time, and is gone afterwards."""
    with workspace.run_folder(tmp_path) as first, workspace.run_folder(tmp_path) as second:
        assert first != second
        assert first.parent == tmp_path / "var" / "testkit"
        (first / "file").write_text("x")
    assert not first.exists()
    assert not second.exists()


def test_removes_what_a_killed_run_left(tmp_path: pathlib.Path) -> None:
    """A folder whose run is dead goes; one whose run is alive stays."""
    script = (
        "import pathlib, sys\n"
        "from setpoint_testkit import workspace\n"
        "with workspace.run_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        left = pathlib.Path(other.stdout.readline().strip())
        with workspace.run_folder(tmp_path):
            assert left.exists()
        other.kill()
    with workspace.run_folder(tmp_path):
        assert not left.exists()


def test_runs_that_start_together_keep_their_folders(tmp_path: pathlib.Path) -> None:
    """Two runs that begin at the same moment do not take each other's folder for an abandoned one."""

    def use(_: int) -> bool:
        with workspace.run_folder(tmp_path) as folder:
            (folder / "file").write_text("x")
            return (folder / workspace.LOCK).exists()

    with ThreadPoolExecutor(8) as runs:
        assert all(runs.map(use, range(200)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_goes_elsewhere_when_the_checkout_is_read_only(tmp_path: pathlib.Path) -> None:
    """A checkout that cannot be written to does not keep tests from running."""
    tmp_path.chmod(0o500)
    with workspace.run_folder(tmp_path) as folder:
        assert tmp_path not in folder.parents
    tmp_path.chmod(0o700)
