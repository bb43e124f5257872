"""The tests run in parts beside each other, and nothing of what they say is lost."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import run_tests
import workspace

TOOL = workspace.ROOT / "tools" / "run_tests.py"
CALL = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import run_tests; "
CALL += "raise SystemExit(run_tests.main(sys.argv[3:], Path(sys.argv[2])))"


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the tests of a project; return exit code and output."""
    finished = subprocess.run(
        [sys.executable, "-c", CALL, str(TOOL.parent), str(folder), *arguments],
        check=False,
        capture_output=True,
        text=True,
        # Plugins have nothing to do with it, and take a second to load.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    return finished.returncode, finished.stdout


def project(folder: Path, **tests: str) -> Path:
    """Make a project with a test file in each of some folders."""
    for name, source in tests.items():
        (folder / name).mkdir()
        (folder / name / f"test_{name}.py").write_text(source, encoding="utf-8")
    paths = ", ".join(f'"{name}"' for name in (*tests, "not_there_yet"))
    settings = f"[tool.pytest.ini_options]\ntestpaths = [{paths}]\n"
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")
    return folder


PASS = "def test_good(): pass\n"
FAIL = PASS + "def test_bad(): assert 'this' == 'that'\n"
SKIP = "import pytest\n" + PASS + "def test_left_out(): pytest.skip('not here')\n"


@pytest.mark.parametrize(
    ("libs", "house", "code", "closing"),
    [
        (PASS, SKIP, 0, "2 passed, 0 failed, 1 skipped"),
        (FAIL, PASS, 1, "2 passed, 1 failed, 0 skipped"),
        (SKIP, FAIL, 1, "2 passed, 1 failed, 1 skipped"),
        (PASS, "import no_such_module\n", 2, "1 passed, 1 failed, 0 skipped"),
    ],
    ids=["all pass", "the seen part fails", "the other part fails", "a part is broken"],
)
def test_parts_are_told_whole(
    tmp_path: Path, libs: str, house: str, code: int, closing: str
) -> None:
    """Proves that each part's outcome decides and is shown, with one line about all at the end."""
    found, output = run(project(tmp_path, libs=libs, house=house))
    assert found == code, output
    assert output.splitlines()[-1] == closing
    assert ("'this' == 'that'" in output) is (FAIL in (libs, house))


def test_arguments_go_to_one_pytest(tmp_path: Path) -> None:
    """Proves that who names tests gets these alone, with pytest's own exit code."""
    folder = project(tmp_path, libs=FAIL, house=PASS)
    assert run(folder, "house", "-q")[0] == 0
    assert run(folder, "libs", "-q")[0] == 1


def test_every_folder_of_tests_is_in_a_part() -> None:
    """Proves that the parts are what pytest would run, each folder once."""
    settings = tomllib.loads((workspace.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    paths = settings["tool"]["pytest"]["ini_options"]["testpaths"]
    found = [path for part in run_tests.parts(workspace.ROOT) for path in part.paths]
    assert sorted(found) == sorted(path for path in paths if (workspace.ROOT / path).exists())
