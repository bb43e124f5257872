"""``routes`` and ``routes preview`` against a router of the test's own."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from setpoint.common.v1 import reference_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_cli import main
from setpoint_devstack import stack

RUNNER = CliRunner()


class Router(router_service_pb2_grpc.RouterServiceServicer):
    """Has a route `flights`; every key that begins with `m` would move from version 1 to 2."""

    def __init__(self) -> None:
        self.previews: list[router_service_pb2.PreviewSplitRequest] = []
        self.listed: list[str] = []

    def ListRoutes(self, request: Any, context: Any) -> router_service_pb2.ListRoutesResponse:
        """List one route."""
        self.listed.append("")
        return router_service_pb2.ListRoutesResponse(routes=[route_pb2.Route(name="flights")])

    def ListRouteRevisions(
        self, request: router_service_pb2.ListRouteRevisionsRequest, context: Any
    ) -> router_service_pb2.ListRouteRevisionsResponse:
        """List one revision."""
        self.listed.append(request.name)
        return router_service_pb2.ListRouteRevisionsResponse(
            routes=[route_pb2.Route(name=request.name, revision=1)]
        )

    def GetRoute(
        self, request: router_service_pb2.GetRouteRequest, context: Any
    ) -> router_service_pb2.GetRouteResponse:
        """Return the route."""
        ours = route_pb2.Route(
            name=request.name, fallback_version=1, valid_from=5, overrides={"a": 1}
        )
        return router_service_pb2.GetRouteResponse(route=ours)

    def PreviewSplit(
        self, request: router_service_pb2.PreviewSplitRequest, context: Any
    ) -> router_service_pb2.PreviewSplitResponse:
        """Move some keys."""
        self.previews.append(request)
        first, second = (
            route_pb2.Assignment(
                model_version=reference_pb2.ModelVersionReference(model="m", version=version)
            )
            for version in (1, 2)
        )
        movement = router_service_pb2.SplitMovement(
            from_version=1, to_version=2, basis_points=1_250
        )
        return router_service_pb2.PreviewSplitResponse(
            base_revision=7,
            movements=[movement] if request.route.weights[0].basis_points < 10_000 else [],
            moved_keys=[
                router_service_pb2.KeyMovement(assignment_key=key, before=first, after=second)
                for key in request.assignment_keys
                if key.startswith("m")
            ],
        )


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    """A router that the command line takes for that of the running stack."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = Router()  # type: ignore[abstract]  # what these commands call
    router_service_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setattr(stack, "running_addresses", lambda _: {"router": f"127.0.0.1:{port}"})
    yield servicer
    server.stop(0).wait()


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [([], ""), (["flights"], "flights"), (["list", "preview"], "preview"), (["list"], "")],
)
def test_routes_lists(router: Router, arguments: list[str], asked: str) -> None:
    """Without a command routes are listed, and one route's revisions by its name."""
    shown = RUNNER.invoke(main.app, ["routes", *arguments])
    assert shown.exit_code == 0, shown.output
    assert router.listed == [asked]


def test_preview_tells_who_moves(router: Router, tmp_path: Path) -> None:
    """The proposal keeps what is not about weights; shares and keys that would move are told."""
    (tmp_path / "keys").write_text("mine\nyours\nmünchen\n", encoding="utf-8")
    shown = RUNNER.invoke(
        main.app,
        [
            *("routes", "preview", "flights", "--weight", "1=87.5", "--weight", "2=12.5"),
            *("--key", "mine", "--keys", str(tmp_path / "keys")),
        ],
    )
    assert shown.exit_code == 0, shown.output
    for text in ("v1", "v2", "12.5 %", "münchen: v1 to v2", "2 of 3 keys", "revision 7"):
        assert text in shown.output
    (sent,) = router.previews
    assert [(each.version, each.basis_points) for each in sent.route.weights] == [
        (1, 8_750),
        (2, 1_250),
    ]
    assert (sent.route.fallback_version, sent.route.valid_from) == (1, 0)
    assert dict(sent.route.overrides) == {"a": 1}
    assert list(sent.assignment_keys) == ["mine", "mine", "yours", "münchen"]


def test_preview_of_nothing_and_of_much(router: Router, tmp_path: Path) -> None:
    """Where nobody moves that is said; more keys than a call takes go in several calls."""
    shown = RUNNER.invoke(main.app, ["routes", "preview", "flights", "--weight", "1=100"])
    assert "nobody would move" in shown.output
    (tmp_path / "keys").write_text("".join(f"m{number}\n" for number in range(25_000)))
    shown = RUNNER.invoke(
        main.app,
        ["routes", "preview", "flights", "--weight", "1=100", "--keys", str(tmp_path / "keys")],
    )
    assert "25,000 of 25,000 keys" in shown.output
    assert "and 24,980 more" in shown.output
    assert [len(each.assignment_keys) for each in router.previews] == [0, 10_000, 10_000, 5_000]


@pytest.mark.parametrize("pair", ["1", "1=", "=5", "a=5", "1=x", "1=0.005", "1=nan", "1=inf"])
def test_preview_refuses_weights(router: Router, pair: str) -> None:
    """What is no version and percentage is wrong usage."""
    shown = RUNNER.invoke(main.app, ["routes", "preview", "flights", "--weight", pair])
    assert (shown.exit_code, router.previews) == (2, [])


def test_preview_refuses_missing_file(router: Router, tmp_path: Path) -> None:
    """A file that is not there is wrong usage."""
    arguments = [
        "routes",
        "preview",
        "flights",
        "--weight",
        "1=100",
        "--keys",
        str(tmp_path / "no"),
    ]
    assert RUNNER.invoke(main.app, arguments).exit_code == 2


def test_preview_reads_standard_input(router: Router) -> None:
    """Keys may be piped in; only line feeds divide them."""
    arguments = ["routes", "preview", "flights", "--weight", "1=100", "--keys", "-"]
    shown = RUNNER.invoke(main.app, arguments, input="m\x1fa\nm\u2028b\n")
    assert shown.exit_code == 0, shown.output
    assert list(router.previews[0].assignment_keys) == ["m\x1fa", "m\u2028b"]
