"""Definitions from files, planned and applied by the command line where a live model reads some of them."""

import asyncio
from pathlib import Path

import pytest
from tests.support import parcels
from tests.support.house import House
from typer.testing import CliRunner, Result

from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint_cli import definition_commands, main
from setpoint_devstack import stack

YAML = """
entities:
  - name: depot
    keys: {{depot: string}}
    tags: {{kind: place}}
views:
  - name: {name}_windows
    entity: depot
    source: {name}
    aggregates:
      - {{name: widest, function: max, of: area, window: 24h}}
  - name: depot_load
    entity: depot
    ttl: {ttl}
    fields:
      - {{name: queue, type: float64, description: waits}}
      - {{name: staff, type: float64}}
  - name: {name}
    entity: depot
    tags: {{size: large}}
    fields:
      - {{name: area, type: float64}}
feature_sets:
  - name: {name}_set
    features: [depot_load.queue, {name}.area, {name}_windows.widest]
"""
"""The house's view of depots as it stands, in other words, and a new view and set."""


async def run(home: House, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Run the command line, as in a shell beside the services."""
    addresses = {name.removesuffix("_address"): found for name, found in home.addresses.items()}
    monkeypatch.setattr(stack, "running_addresses", lambda _: addresses)
    return await asyncio.to_thread(
        lambda: CliRunner().invoke(main.app, ["features", *arguments], catch_exceptions=False)
    )


async def depot_load(home: House) -> definition_pb2.FeatureView:
    """Read the house's view of depots."""
    request = feature_service_pb2.GetFeatureViewRequest(name="depot_load")
    return (await home.client.stubs.feature.GetFeatureView(request)).view


async def test_plan_apply_and_nothing_left_to_do(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a plan shows is applied and recorded, and planned again there is nothing to do."""
    before = await depot_load(home)
    path = tmp_path / "depots.yaml"
    path.write_text(YAML.format(name="yards", ttl="3h"), encoding="utf-8")

    planned = await run(home, monkeypatch, "plan", str(path), "--exit-code")
    applied = await run(home, monkeypatch, "apply", str(path), "--yes", "--reason", "yards too")
    again = await run(home, monkeypatch, "plan", str(tmp_path), "--exit-code", "--all")
    history = await run(home, monkeypatch, "history", "--count", "1")
    tagged = await run(home, monkeypatch, "--tag", "size=large")

    assert planned.exit_code == definition_commands.EXIT_CHANGES, planned.output
    for line in (
        "+ view yards  new",
        "    + fields[area]: dtype FLOAT64",
        "~ view depot_load  in words only",
        "    + fields[queue].description: waits",
        "    + tags[kind]: place",
        "+ view yards_windows  new",
        "plan: 3 new, 2 in words only",
    ):
        assert line in planned.output, planned.output
    assert applied.exit_code == 0, applied.output
    assert "applied: revision" in applied.output
    assert (again.exit_code, again.output.splitlines()[-1]) == (0, "nothing to do")
    assert "view yards  unchanged" in again.output
    assert "yards too" in history.output
    assert "yards" in tagged.output
    assert "crew_health" not in tagged.output
    assert "there are no feature sets" in tagged.output
    assert "+ feature set yards_set" in history.output
    assert (await depot_load(home)).version == before.version


async def test_breaking_change_is_refused_with_the_models_names(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view that the routed model reads gets no other version; nothing beside it is applied either."""
    before = await depot_load(home)
    path = tmp_path / "depots.yaml"
    path.write_text(YAML.format(name="sheds", ttl="17h"), encoding="utf-8")

    planned = await run(home, monkeypatch, "plan", str(path))
    applied = await run(home, monkeypatch, "apply", str(path), "--yes")
    forced = await run(home, monkeypatch, "apply", str(path), "--yes", "--force")

    model = f"{parcels.MODEL}/{home.version}"
    for each in (planned, applied):
        assert each.exit_code == 1, each.output
        assert "~ view depot_load  new version" in each.output
        assert "~ ttl: 3 h → 17 h" in each.output
        assert "refused: live model versions read depot_load@" in each.output
        assert f"{model} would get no new values" in each.output
    assert forced.exit_code == 2, forced.output
    assert await depot_load(home) == before
    listed = await home.client.stubs.feature.ListFeatureViews(
        feature_service_pb2.ListFeatureViewsRequest()
    )
    assert "sheds" not in {each.name for each in listed.views}


async def test_mistakes_are_told_by_file_and_line(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file gets wrong, and what only the service can know, is told by file and line."""
    form = tmp_path / "form.yaml"
    form.write_text("views:\n  - name: v\n    entity: depot\n    field: []\n", encoding="utf-8")
    sense = tmp_path / "sense.yaml"
    sense.write_text(
        "views:\n"
        "  - {name: a, entity: nobody, fields: [{name: x, type: int64}]}\n"
        "  - name: b\n"
        "    entity: depot\n"
        "    fields:\n"
        "      - {name: x, type: int64}\n"
        "      - {name: y, type: int64, default: text}\n",
        encoding="utf-8",
    )

    of_form = await run(home, monkeypatch, "plan", str(form))
    of_sense = await run(home, monkeypatch, "plan", str(sense))

    assert (of_form.exit_code, of_sense.exit_code) == (1, 1)
    assert f"{form}:4: views[0].field: 'field' must be one of name, entity" in of_form.stderr
    assert f"{sense}:7: view b: fields[1].default_value: " in of_sense.stderr
    sense.write_text(sense.read_text().replace("default: text", "default: 1"))
    only = await run(home, monkeypatch, "plan", str(sense))
    assert f"{sense}:2: view a: entity: 'nobody' must be a registered entity" in only.stderr
