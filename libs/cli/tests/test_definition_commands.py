"""Commands around definitions as code, without a service."""

import contextlib
import getpass
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from setpoint.feature.v1 import definition_service_pb2 as pb
from setpoint_cli import definition_commands, main


class Pages:
    """Answers one change a page, whatever is asked for: each is large."""

    def ListAppliedDefinitions(
        self, request: pb.ListAppliedDefinitionsRequest, timeout: float
    ) -> pb.ListAppliedDefinitionsResponse:
        at = int(request.page_token or 9)
        applied = pb.AppliedDefinitions(revision=at, actor="alice", reason="why")
        token = str(at - 1) if at > 1 else ""
        return pb.ListAppliedDefinitionsResponse(applied=[applied], next_page_token=token)


@pytest.mark.parametrize(("count", "shown"), [(3, [9, 8, 7]), (50, list(range(9, 0, -1)))])
def test_history_shows_as_many_as_asked_for(
    monkeypatch: pytest.MonkeyPatch, count: int, shown: list[int]
) -> None:
    """A page that ends early is no end of the history."""

    @contextlib.contextmanager
    def session(stack: Any) -> Iterator[Any]:
        yield SimpleNamespace(stubs=SimpleNamespace(definition=Pages()))

    monkeypatch.setattr(definition_commands, "session", session)

    found = CliRunner().invoke(main.app, ["features", "history", "--count", str(count)])

    assert found.exit_code == 0
    revisions = [line.split("revision ")[1] for line in found.output.splitlines()]
    assert [int(each.split()[0]) for each in revisions] == shown


def test_apply_names_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's user that no file names is told by its number, not by a traceback."""
    asked: list[pb.ApplyDefinitionsRequest] = []

    class Definitions:
        def PlanDefinitions(self, request: Any, timeout: float) -> pb.PlanDefinitionsResponse:
            change = pb.DefinitionChange(name="carrier", action=pb.CHANGE_ACTION_CREATE)
            return pb.PlanDefinitionsResponse(revision=1, changes=[change])

        def ApplyDefinitions(
            self, request: pb.ApplyDefinitionsRequest, timeout: float
        ) -> pb.ApplyDefinitionsResponse:
            asked.append(request)
            return pb.ApplyDefinitionsResponse(revision=2)

    @contextlib.contextmanager
    def session(stack: Any) -> Iterator[Any]:
        yield SimpleNamespace(stubs=SimpleNamespace(definition=Definitions()))

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(definition_commands, "session", session)
    monkeypatch.setattr(getpass, "getuser", nobody)
    path = tmp_path / "features.yaml"
    path.write_text("entities:\n  - {name: carrier, keys: {carrier: string}}\n")

    found = CliRunner().invoke(main.app, ["features", "apply", str(path), "--yes"])

    assert found.exit_code == 0, found.output
    assert [each.actor for each in asked] == [f"user {os.getuid()}"]
