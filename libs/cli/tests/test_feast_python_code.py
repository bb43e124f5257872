import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from setpoint_cli.feast import mapping, python_code
from setpoint_cli.feast import testing as feast
from setpoint_features import Definitions, Derived, Entity, FeatureSet, FeatureView

MODULE = "imported_from_feast"
CODE = """
def f(inputs):
    df = pd.DataFrame()
    df["total"] = np.sqrt(inputs["rate"]) + inputs["extra"]
    return df
"""
REPOSITORY = feast.repository(
    entities=[
        feast.entity("driver", "driver_id", description='Who "drives"', tags={"a": "it's"}),
        feast.entity("rider", "rider_id", "STRING"),
    ],
    views=[
        feast.view(
            "trips",
            ["driver", "rider"],
            [
                feast.field("rate", description="Of a day"),
                feast.field("count", "Int64", tags={"b": "c"}),
            ],
            ttl=86_400_000_001,
            owner="ops",
        ),
        feast.view("class", ["driver"], [feast.field("rate", "String"), feast.field("timedelta")]),
        feast.view("world", [], [feast.field("load")]),
    ],
    on_demand=[
        feast.on_demand(
            "sums",
            CODE,
            [feast.field("total", "Float64")],
            views=[feast.taken("trips", ["rate"])],
            request=[feast.field("extra", "Float64")],
        )
    ],
    services=[
        feast.service(
            "late",
            [
                feast.taken("trips", ["rate"]),
                feast.taken("class", [], keys={"driver_id": "other_driver"}, alias="others"),
                feast.taken("world", ["load"]),
                feast.taken("sums", ["total"]),
            ],
        ),
        feast.service("trips", [feast.taken("trips", ["count"])]),
    ],
)


def executed(source: str) -> dict[str, Any]:
    """Runs what was written as a module of its name and returns what that holds."""
    scope: dict[str, Any] = {"__name__": MODULE}
    exec(source, scope)  # noqa: S102  # What a user would import.
    return scope


def defined(source: str) -> Definitions:
    """Returns the definitions of what was written, functions by their names."""
    found = executed(source).values()
    sets = [
        replace(
            made,
            request_fields=list(made.request_fields),
            derived=[Derived(each.name, each.function_name, each.inputs) for each in made.derived],
        )
        for made in found
        if isinstance(made, FeatureSet)
    ]
    return Definitions.of([*(e for e in found if isinstance(e, Entity | FeatureView)), *sets])


def test_write_gives_what_was_mapped() -> None:
    """The module defines what was mapped, to the last tag, whatever names are taken in Python."""
    mapped = mapping.map_repository(REPOSITORY, MODULE, {})
    source = python_code.write(mapped, "shop")
    assert defined(source) == mapped.definitions
    assert "# Not as in Feast: its TTL counts to the microsecond" in source


def test_write_computes() -> None:
    """A function that was taken over is a transformation that computes."""
    mapped = mapping.map_repository(REPOSITORY, MODULE, {})
    assert executed(python_code.write(mapped, "shop"))["total"](4.0, 0.5) == 2.5


def test_write_is_formatted(tmp_path: Path) -> None:
    """What is written is as the formatter would have it, so that nobody's first change is noise."""
    path = tmp_path / "module.py"
    path.write_text(python_code.write(mapping.map_repository(REPOSITORY, MODULE, {}), "shop"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "format",
            "--isolated",
            "--line-length",
            "100",
            "--diff",
            path,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@hypothesis.given(st.text(), st.text())
def test_write_quotes_whatever_is_said(name: str, words: str) -> None:
    """No text of a repository gets out of its quotes: it is read back, or refused by the mapping."""
    view = feast.view(name, ["driver"], [feast.field(name, description=words)], description=words)
    on_demand = feast.on_demand(
        name,
        'def f(inputs):\n    return {"x": inputs["a"]}',
        [feast.field("x")],
        request=[feast.field("a")],
    )
    service = feast.service(name, [feast.taken(name, [name])], owner=words)
    told = feast.repository(
        entities=[feast.entity("driver", tags={"tag": words})],
        views=[view],
        on_demand=[{**on_demand, "name": f"{name}_"}],
        services=[service],
    )
    mapped = mapping.map_repository(told, MODULE, {})
    assert defined(python_code.write(mapped, words)) == mapped.definitions
