import json
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console
from tests.load import bench
from tests.load.support.benchmark import Options
from tests.load.support.measures import Measure, Outcome


def test_names_are_the_benchmarks_alone() -> None:
    """The modules beside the program are benchmarks; its tests and itself are not."""
    assert "serving" in bench.names()
    assert not {name for name in bench.names() if name.startswith(("test", "bench"))}


@pytest.mark.parametrize("name", ["no_such", "bench", "test_bench"])
def test_main_refuses_an_unknown_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another name ends with code 2 and a message that has the known names."""
    with pytest.raises(SystemExit) as ended:
        bench.main([name])
    assert ended.value.code == 2
    assert "serving" in capsys.readouterr().err


def test_main_refuses_an_unknown_generator(capsys: pytest.CaptureFixture[str]) -> None:
    """So does another generator of load."""
    with pytest.raises(SystemExit) as ended:
        bench.main(["serving", "--generator", "fast"])
    assert ended.value.code == 2
    assert "bundled" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "known"), [("features", "scale"), ("serving", "none")])
def test_main_refuses_an_unknown_part(
    name: str, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part that a benchmark does not have ends with code 2 and its parts, before anything starts."""
    with pytest.raises(SystemExit) as ended:
        bench.main([name, "--only", "no_such"])
    assert ended.value.code == 2
    assert known in capsys.readouterr().err


def test_main_writes_the_result_whatever_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missed goal is printed and written; the program ends well, its folder is gone."""
    given: list[Options] = []

    async def run(options: Options, console: Console) -> Outcome:
        console.print("working")
        given.append(options)
        (options.folder / "file").write_text("")
        return Outcome([Measure("a / b", 0.1, "1", 0.9, ">=", "b: 1/s")], ["a note"])

    module = types.SimpleNamespace(TITLE="A title", PARTS=("one", "two", "three"), run=run)
    monkeypatch.setitem(sys.modules, "tests.load.serving", module)
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    bench.main(["serving", "--quick", "--generator", "bundled", "--only", "two", "--only", "one"])
    written = json.loads((tmp_path / "serving.json").read_text())
    assert [measure["value"] for measure in written["measures"]] == [0.1]
    assert "a note" in written["machine"]
    assert (given[0].is_quick, given[0].generator) == (True, "bundled")
    assert given[0].only == ("two", "one")
    assert not given[0].folder.exists()
    printed = capsys.readouterr().out
    assert "A title" in printed
    assert "missed" in printed
