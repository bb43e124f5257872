"""The Tiltfile, run by a real Starlark interpreter against stand-ins for Tilt's functions."""

import importlib.util
import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import starlark
from tests.deploy import services, tilt_stand_ins

from setpoint_devstack import catalogue

ROOT = Path(__file__).resolve().parents[2]
TILTFILE = ROOT / "Tiltfile"
METRICS_OFFSET = 1000
STORES = {"postgres", "valkey"}


@pytest.fixture(scope="module")
def processes() -> tilt_stand_ins.Recording:
    return tilt_stand_ins.evaluate(TILTFILE)


@pytest.fixture(scope="module")
def kubernetes() -> tilt_stand_ins.Recording:
    return tilt_stand_ins.evaluate(TILTFILE, kubernetes=True)


def write_tiltfile(folder: Path, text: str) -> Path:
    path = folder / "Tiltfile"
    path.write_text(text, encoding="utf-8")
    return path


def test_evaluate_rejects_unknown_argument(tmp_path: Path) -> None:
    """The stand-ins know Tilt's argument names; a misspelt one does not pass."""
    path = write_tiltfile(tmp_path, "local_resource('x', cmd='true', resource_dependencies=['y'])")
    with pytest.raises(starlark.StarlarkError, match="Unexpected keyword argument"):
        tilt_stand_ins.evaluate(path)


@pytest.mark.parametrize(
    "call",
    [
        "local_resource('x', cmd='true', labels=['not a label'])",
        "local_resource('x', cmd='true', serve_env={'PORT': 7400})",
        "local_resource('x', cmd='true', readiness_probe=link('http://x', 'x'))",
        "local_resource('x')",
        "probe(period_secs='2', tcp_socket=tcp_socket_action(1))",
        "probe(period_secs=2)",
        "docker_build('x', '.', live_update=[run('true'), sync('a', '/a')])",
        "sync('a', 'relative')",
        "k8s_resource(objects=['x:namespace'])",
        "f'{1}'",
    ],
)
def test_evaluate_rejects_wrong_use(tmp_path: Path, call: str) -> None:
    """Wrong types and combinations that Tilt refuses are refused by the stand-ins too."""
    with pytest.raises(starlark.StarlarkError):
        tilt_stand_ins.evaluate(write_tiltfile(tmp_path, call))


def test_define_every_service(
    processes: tilt_stand_ins.Recording, kubernetes: tilt_stand_ins.Recording
) -> None:
    """Each folder below services/ is a resource in both modes, and there is no other."""
    labelled = {name for name, made in processes.local.items() if made["labels"] == ["services"]}
    assert labelled == set(services.names())
    labelled = {
        name for name, made in kubernetes.workloads.items() if made["labels"] == ["services"]
    }
    assert labelled == set(services.names())
    assert set(kubernetes.images) == {f"setpoint/{name}" for name in services.names()}


def all_resources(recording: tilt_stand_ins.Recording) -> dict[str, dict[str, Any]]:
    return {**recording.local, **recording.workloads}


@pytest.mark.parametrize("mode", ["processes", "kubernetes"])
def test_order_resources_without_cycle(mode: str, request: pytest.FixtureRequest) -> None:
    """What a resource waits for exists, and nothing waits for itself."""
    made = all_resources(request.getfixturevalue(mode))
    graph = {name: set(resource["resource_deps"]) for name, resource in made.items()}
    assert set().union(*graph.values()) <= set(graph)
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize("service", services.names())
def test_depend_on_what_is_called(service: str, processes: tilt_stand_ins.Recording) -> None:
    """A service waits for exactly the stores and services that its settings have addresses of."""
    waits_for = set(processes.local[service]["resource_deps"])
    assert waits_for == {"stores"} | (services.calls(service) - STORES)


@pytest.mark.parametrize("service", services.names())
def test_depend_on_what_is_called_in_kubernetes(
    service: str, kubernetes: tilt_stand_ins.Recording
) -> None:
    """In the cluster the stores are resources of their own."""
    waits_for = set(kubernetes.workloads[service]["resource_deps"])
    assert waits_for == {"namespace"} | services.calls(service)


def test_agree_with_devstack(processes: tilt_stand_ins.Recording) -> None:
    """`tilt up` and `setpoint up` run the same services in the same order, with the same folders."""
    running = [name for name in processes.local if name in set(services.names())]
    assert sorted(running) == sorted(service.name for service in catalogue.ALL)
    for service in catalogue.ALL:
        resource = processes.local[service.name]
        assert set(resource["resource_deps"]) == {"stores", *service.peers}
        given = {name.removeprefix(service.prefix) for name in resource["serve_env"]}
        assert set(service.folders) == {
            each for each in given if each.endswith(("_DIRECTORY", "_URL"))
        }


@pytest.mark.parametrize("service", services.names())
def test_run_existing_module(service: str, processes: tilt_stand_ins.Recording) -> None:
    """The command names a module that can be run with -m."""
    command = processes.local[service]["serve_cmd"]
    module = re.fullmatch(r".* exec \.venv/bin/python -m (\w+)", command)
    assert module is not None
    assert importlib.util.find_spec(f"{module.group(1)}.__main__") is not None


def test_run_existing_stores_command(processes: tilt_stand_ins.Recording) -> None:
    """The stores come from devstack's own command."""
    command = processes.local["stores"]["serve_cmd"]
    assert command[:4] == [".venv/bin/python", "-m", "setpoint_devstack", "stores"]
    assert importlib.util.find_spec("setpoint_devstack.__main__") is not None


@pytest.mark.parametrize("service", services.names())
def test_set_known_variables(service: str, processes: tilt_stand_ins.Recording) -> None:
    """Every variable is a field of the service's settings, and every peer's address is given."""
    given = set(processes.local[service]["serve_env"])
    assert given <= services.variables(service)
    addresses = {name for name in services.variables(service) if name.endswith("_ADDRESS")}
    assert addresses <= given


@pytest.mark.parametrize("service", services.names())
def test_accept_given_values(
    service: str, processes: tilt_stand_ins.Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's settings class accepts the values as they are given."""
    for name, value in processes.local[service]["serve_env"].items():
        monkeypatch.setenv(name, value)
    url = "postgresql://user:password@127.0.0.1:7432/setpoint"
    if "database_url" in services.settings_of(service).model_fields:
        monkeypatch.setenv(f"SETPOINT_{service.upper()}_DATABASE_URL", url)
    assert services.settings_of(service)().port == services.port(service)


@pytest.mark.parametrize("service", services.names())
def test_agree_on_ports(service: str, processes: tilt_stand_ins.Recording) -> None:
    """Port, probe and the addresses that others are given are those of the service's defaults."""
    port = services.port(service)
    resource = processes.local[service]
    assert resource["serve_env"][f"SETPOINT_{service.upper()}_PORT"] == str(port)
    assert resource["readiness_probe"].http_get.port == port + METRICS_OFFSET
    assert resource["readiness_probe"].http_get.path == "/readyz"
    assert f":{port + METRICS_OFFSET}/" in resource["links"][0].url
    for other in processes.local.values():
        for name, value in other["serve_env"].items():
            if name.endswith(f"_{service.upper()}_ADDRESS"):
                assert value == f"127.0.0.1:{port}"


@pytest.mark.parametrize("service", services.names())
def test_forward_ports(service: str, kubernetes: tilt_stand_ins.Recording) -> None:
    """The cluster's services answer on the same local ports as the processes."""
    forwards = kubernetes.workloads[service]["port_forwards"]
    port = services.port(service)
    assert [(each.local_port, each.container_port) for each in forwards] == [
        (port, port),
        (port + METRICS_OFFSET, port + METRICS_OFFSET),
    ]


@pytest.mark.parametrize("service", services.names())
def test_build_from_existing_files(service: str, kubernetes: tilt_stand_ins.Recording) -> None:
    """Images are built from files that exist; live updates write to where the image has its code."""
    image = kubernetes.images[f"setpoint/{service}"]
    dockerfile = (ROOT / image["dockerfile"]).read_text(encoding="utf-8")
    assert f" AS {image['target']}\n" in dockerfile
    assert image["build_args"] == {"SERVICE": service}
    for path in image["only"]:
        assert (ROOT / path).exists(), path
    version = re.search(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)-", dockerfile, flags=re.MULTILINE)
    assert version is not None
    synced = [step.arguments for step in image["live_update"] if step.kind == "sync"]
    assert f"services/{service}/src" in {source for source, _ in synced}
    for source, target in synced:
        assert (ROOT / source).is_dir()
        assert target == f"/opt/setpoint/lib/python{version.group(1)}/site-packages"
    covered = tuple(image["only"])
    for step in image["live_update"]:
        if step.kind == "fall_back_on":
            assert all(
                path.startswith(covered) and (ROOT / path).exists() for path in step.arguments
            )


def test_deploy_dev_overlay(kubernetes: tilt_stand_ins.Recording) -> None:
    """The switch deploys the overlay that the manifests' own tests render."""
    assert kubernetes.manifests == [tilt_stand_ins.Blob("deploy/k8s/overlays/dev")]
    assert (ROOT / "deploy/k8s/overlays/dev/kustomization.yaml").exists()


def test_select_services_with_needs() -> None:
    """A named service comes with all it calls, directly or not, and nothing else."""
    recording = tilt_stand_ins.evaluate(TILTFILE, services=["inference"])
    assert recording.enabled == ["setup", "stores", "registry", "inference"]
    recording = tilt_stand_ins.evaluate(TILTFILE, services=["retraining"])
    assert recording.enabled is not None
    assert set(services.names()) - {"batch"} <= set(recording.enabled)
    recording = tilt_stand_ins.evaluate(TILTFILE, services=["monitoring"], kubernetes=True)
    assert recording.enabled is not None
    assert set(recording.enabled) <= set(all_resources(recording))
    assert {"namespace", "postgres", "registry", "monitoring"} <= set(recording.enabled)


def test_refuse_unknown_service() -> None:
    """A misspelt service is an error that lists the known ones."""
    with pytest.raises(starlark.StarlarkError, match=r"no such service: ruoter .*router"):
        tilt_stand_ins.evaluate(TILTFILE, services=["ruoter"])


def test_hand_on_telemetry_endpoint() -> None:
    """Traces go where the setting says; the viewer is linked beside each service."""
    recording = tilt_stand_ins.evaluate(
        TILTFILE, otlp="http://127.0.0.1:4317", traces="http://127.0.0.1:16686"
    )
    for service in services.names():
        resource = recording.local[service]
        assert resource["serve_env"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4317"
        assert resource["links"][-1].url == "http://127.0.0.1:16686"


@pytest.mark.parametrize("name", ["test", "lint", "demo"])
def test_start_checks_by_hand(name: str, processes: tilt_stand_ins.Recording) -> None:
    """Checks and the demo run when asked for, through a target that the Makefile has."""
    resource = processes.local[name]
    assert not resource["auto_init"]
    assert resource["trigger_mode"] == tilt_stand_ins.TriggerMode("manual")
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_document_calls() -> None:
    """Links to Tilt's documentation stand in the Tiltfile, and no other host is named."""
    hosts = set(re.findall(r"https?://([a-z0-9.-]+)", TILTFILE.read_text(encoding="utf-8")))
    assert "docs.tilt.dev" in hosts
    assert hosts <= {"docs.tilt.dev", "127.0.0.1", "localhost"}
