import datetime as dt
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.load.support import measures
from tests.load.support.measures import Measure, Outcome

DATE = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
REACHED = Measure("a / b", 0.8, "1", 0.75, ">=", "b: 9,000/s")
MISSED = Measure("a / b, p50", 1.5, "1", 1.2, "<=", "b: 2.00 ms")
FREE = Measure("a: throughput", 4200.4, "1/s", None, ">=", "64 callers")


def test_document_has_the_agreed_form(tmp_path: Path) -> None:
    """The file has the keys that every benchmark's has, and a goal of null where there is none."""
    path = tmp_path / "new" / "serving.json"
    content = measures.document(Outcome([REACHED, FREE], ["uvicorn 1"]), DATE, 0.5)
    measures.write(path, content)
    read = json.loads(path.read_text())
    assert list(read) == ["date", "machine", "measures"]
    assert read["date"] == "2026-01-02T03:04:05+00:00"
    assert "load 0.5" in read["machine"]
    assert read["machine"].endswith("uvicorn 1")
    assert read["measures"] == [
        {
            "name": "a / b",
            "value": 0.8,
            "unit": "1",
            "goal": 0.75,
            "direction": ">=",
            "baseline": "b: 9,000/s",
        },
        {
            "name": "a: throughput",
            "value": 4200.4,
            "unit": "1/s",
            "goal": None,
            "direction": ">=",
            "baseline": "64 callers",
        },
    ]


def test_write_replaces_the_last_result(tmp_path: Path) -> None:
    """The file of an earlier run gives way, and nothing else is left beside it."""
    path = tmp_path / "serving.json"
    for value in (1, 2):
        measures.write(path, {"value": value})
    assert json.loads(path.read_text()) == {"value": 2}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_measure_refuses_what_is_no_number(value: float) -> None:
    """JSON has no NaN; a division gone wrong fails where it happens."""
    with pytest.raises(ValueError, match="a / b"):
        Measure("a / b", value, "1", None, ">=", "")


@pytest.mark.parametrize("name, unit", [("", "1"), ("a", "")])
def test_measure_refuses_to_be_nameless(name: str, unit: str) -> None:
    """A number without a name or a unit says nothing."""
    with pytest.raises(ValueError, match="name and a unit"):
        Measure(name, 1.0, unit, None, ">=", "")


@pytest.mark.parametrize("measure, expected", [(REACHED, True), (MISSED, False), (FREE, None)])
def test_measure_knows_whether_it_is_met(measure: Measure, expected: bool | None) -> None:
    """A goal is judged on its good side; without a goal nothing is."""
    assert measure.is_met is expected


def test_goal_itself_is_met() -> None:
    """A value equal to its goal reaches it from either side."""
    assert Measure("a", 0.75, "1", 0.75, ">=", "").is_met
    assert Measure("a", 0.75, "1", 0.75, "<=", "").is_met


@pytest.mark.parametrize(
    "value, unit, expected",
    [(4200.4, "1/s", "4,200 1/s"), (0.7549, "1", "0.75"), (12.34, "ms", "12.3 ms")],
)
def test_shown_rounds_to_what_is_known(value: float, unit: str, expected: str) -> None:
    """A person reads few digits, and no unit behind a ratio."""
    assert measures.shown(value, unit) == expected


def test_table_shows_verdicts() -> None:
    """The table says of each goal whether it is met."""
    out = io.StringIO()
    table = measures.as_table("title", [REACHED, MISSED, FREE])
    Console(file=out, width=120).print(table)
    lines = out.getvalue().splitlines()
    verdicts = {line.split("  ")[1]: "met" in line.split() for line in lines if "a / b" in line}
    assert verdicts == {"a / b": True, "a / b, p50": False}
    assert any("missed" in line for line in lines)
