"""The manifests as kustomize renders them: valid, complete, and in step with the services."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import (  # type: ignore[import-untyped]  # no annotations
    health_pb2,
    health_pb2_grpc,
)
from tests.deploy import manifests, services

from setpoint_rpc import server as rpc_server

# The oldest release that still gets fixes, and the newest whose schemas are here.
KUBERNETES_VERSIONS = ("1.35", "1.37")
METRICS_OFFSET = 1000
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Longer than the sum of what happens on the way out: preStop 5 s, drain, grace 20 s, flush 3 s.
TERMINATION_SECONDS = 45


@pytest.fixture(scope="module", params=[manifests.BASE, manifests.DEV], ids=["base", "dev"])
def rendered(request: pytest.FixtureRequest) -> tuple[manifests.Manifest, ...]:
    return manifests.render(request.param)


@pytest.fixture(scope="module")
def dev() -> tuple[manifests.Manifest, ...]:
    return manifests.render(manifests.DEV)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_validate_against_schemas(rendered: tuple[manifests.Manifest, ...], version: str) -> None:
    """Each manifest fits the strict schema of the release, where unknown fields are errors."""
    for manifest in rendered:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_reject_unknown_field(dev: tuple[manifests.Manifest, ...]) -> None:
    """The schemas do notice a misspelt field."""
    router = manifests.workload(dev, "router")
    spec = {**router["spec"], "replica": 1}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**router, "spec": spec}, KUBERNETES_VERSIONS[-1], strict=True)


def test_deploy_every_service(rendered: tuple[manifests.Manifest, ...]) -> None:
    """Each folder below services/ runs, and stores and telemetry beside them."""
    running = {
        each["metadata"]["name"] for each in manifests.of_kind(rendered, *manifests.WORKLOADS)
    }
    assert running == {*services.names(), "postgres", "valkey", "collector", "jaeger"}


def test_name_objects_once(rendered: tuple[manifests.Manifest, ...]) -> None:
    """No name is given twice, and no placeholder of a shared component is left."""
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered]
    assert len(set(names)) == len(names)
    assert not {name for _, name in names if name.endswith(("service", "target")) or name == "any"}
    for policy in manifests.of_kind(rendered, "NetworkPolicy"):
        assert "target" not in yaml.safe_dump(policy)


@pytest.mark.parametrize("service", services.names())
def test_agree_on_ports(service: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Service, container and probes use the port the service has by default, metrics 1000 above."""
    port = services.port(service)
    expected = {"grpc": port, "metrics": port + METRICS_OFFSET}
    workload = manifests.workload(rendered, service)
    assert manifests.ports(workload) == expected
    published = manifests.named(rendered, service, "Service")["spec"]["ports"]
    assert {each["name"]: each["port"] for each in published} == expected
    for probe in PROBES:
        assert manifests.container(workload)[probe]["grpc"]["port"] == port


def test_resolve_headless_services(rendered: tuple[manifests.Manifest, ...]) -> None:
    """A headless Service maps no ports, so its ports must be those of the pods it selects."""
    for service in manifests.of_kind(rendered, "Service"):
        name = service["metadata"]["name"]
        workload = manifests.workload(rendered, name)
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["selector"].items() <= manifests.pod_labels(workload).items()
        for port in service["spec"]["ports"]:
            assert manifests.ports(workload)[port["targetPort"]] == port["port"]


def test_select_own_pods(rendered: tuple[manifests.Manifest, ...]) -> None:
    """Selectors of workloads and budgets match the pods of one workload, their own."""
    pods = {
        each["metadata"]["name"]: manifests.pod_labels(each)
        for each in manifests.of_kind(rendered, *manifests.WORKLOADS)
    }
    for each in manifests.of_kind(rendered, *manifests.WORKLOADS, "PodDisruptionBudget"):
        wanted = each["spec"]["selector"]["matchLabels"].items()
        matched = [name for name, labels in pods.items() if wanted <= labels.items()]
        assert matched == [each["metadata"]["name"]]


def test_name_governing_service(rendered: tuple[manifests.Manifest, ...]) -> None:
    """A StatefulSet's pods get their names from its own Service."""
    for each in manifests.of_kind(rendered, "StatefulSet"):
        assert each["spec"]["serviceName"] == each["metadata"]["name"]
        manifests.named(rendered, each["spec"]["serviceName"], "Service")


@pytest.mark.parametrize("service", services.names())
def test_guard_disruption(service: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Upgrades and evictions take one pod at a time, Deployments only after a new one is ready."""
    budget = manifests.named(rendered, service, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    workload = manifests.workload(rendered, service)
    if workload["kind"] == "Deployment":
        assert workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = workload["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == TERMINATION_SECONDS
    assert manifests.container(workload)["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


def probe_services(rendered: tuple[manifests.Manifest, ...]) -> set[str]:
    return {
        manifests.container(manifests.workload(rendered, name))[probe]["grpc"]["service"]
        for name in services.names()
        for probe in PROBES
    }


async def test_ask_registered_health_services(dev: tuple[manifests.Manifest, ...]) -> None:
    """A server of the shared builder answers each name that the probes ask for."""
    server = rpc_server.Server("router")
    await server.start()
    try:
        await server.set_ready(True)
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for name in sorted(probe_services(dev)):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    finally:
        await server.stop(0)


@pytest.mark.parametrize("service", services.names())
def test_set_known_variables(service: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Every SETPOINT_ variable in the service's ConfigMap is a field of its settings."""
    own = [
        name
        for kind, name, _ in manifests.environment_sources(manifests.workload(rendered, service))
        if kind == "ConfigMap"
    ]
    given = {key for name in own for key in manifests.data(rendered, "ConfigMap", name)}
    assert {key for key in given if key.startswith("SETPOINT_")} <= services.variables(service)


@pytest.mark.parametrize("service", services.names())
def test_accept_given_values(
    service: str, dev: tuple[manifests.Manifest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings class accepts what the pod is given, Secrets too, and nothing is left to guess."""
    given = manifests.environment(dev, service)
    wanted = services.variables(service)
    assert {key for key in given if key.startswith("SETPOINT_")} <= wanted
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read = services.settings_of(service)()
    assert read.host == "0.0.0.0"
    assert read.allow_insecure_remote
    assert read.effective_metrics_port == services.port(service) + METRICS_OFFSET
    stores = {key for key in wanted if key.endswith(("_DATABASE_URL", "_VALKEY_URL"))}
    assert stores <= set(given)


@pytest.mark.parametrize("service", services.names())
def test_address_peers(service: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Each peer is addressed by its Service's name, balanced over its pods, at its own port."""
    sources = manifests.environment_sources(manifests.workload(rendered, service))
    given: dict[str, str] = {}
    for kind, name, _ in sources:
        if kind == "ConfigMap":
            given |= manifests.data(rendered, kind, name)
    for peer in services.calls(service) & set(services.names()):
        variable = f"SETPOINT_{service.upper()}_{peer.upper()}_ADDRESS"
        assert given[variable] == f"dns:///{peer}:{services.port(peer)}"


def test_give_every_reference(dev: tuple[manifests.Manifest, ...]) -> None:
    """ConfigMaps and Secrets that pods name exist in the overlay, with the keys asked for."""
    for workload in manifests.of_kind(dev, *manifests.WORKLOADS):
        for kind, name, key in manifests.environment_sources(workload):
            assert key is None or key in manifests.data(dev, kind, name)
            manifests.named(dev, name, kind)
        for volume in workload["spec"]["template"]["spec"].get("volumes", []):
            if "configMap" in volume:
                manifests.named(dev, volume["configMap"]["name"], "ConfigMap")


def test_listen_remotely_in_dev_alone() -> None:
    """Listening beyond loopback without TLS is permitted in the dev overlay and nowhere else."""
    for manifest in manifests.render(manifests.BASE):
        text = yaml.safe_dump(manifest)
        assert "ALLOW_INSECURE_REMOTE" not in text
        assert "SETPOINT_ROUTER_HOST" not in text
    assert not manifests.of_kind(manifests.render(manifests.BASE), "Secret")


def test_hold_no_password_in_base() -> None:
    """Passwords in the dev overlay are visibly made up; the base has none."""
    secrets = manifests.of_kind(manifests.render(manifests.DEV), "Secret")
    for secret in secrets:
        name = secret["metadata"]["name"]
        for value in manifests.data(manifests.render(manifests.DEV), "Secret", name).values():
            assert "development" in value


@pytest.mark.parametrize("name", manifests.workload_names())
def test_restrict_pods(name: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Every pod, also of stores and telemetry, fits the Pod Security Standard `restricted`."""
    pod = manifests.workload(rendered, name)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    for volume in pod.get("volumes", []):
        assert set(volume) - {"name"} <= {"configMap", "emptyDir"}


@pytest.mark.parametrize("name", manifests.workload_names())
def test_write_to_volumes_alone(name: str) -> None:
    """Root file systems are read-only; the dev overlay opens those of services for live updates."""
    base = manifests.container(manifests.workload(manifests.render(manifests.BASE), name))
    assert base["securityContext"]["readOnlyRootFilesystem"] is True
    dev = manifests.container(manifests.workload(manifests.render(manifests.DEV), name))
    is_service = name in services.names()
    assert dev["securityContext"]["readOnlyRootFilesystem"] is not is_service


@pytest.mark.parametrize("name", manifests.workload_names())
def test_bound_resources(name: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Every container asks for what it needs and has a memory limit; CPU is not throttled."""
    resources = manifests.container(manifests.workload(rendered, name))["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


@pytest.mark.parametrize("name", manifests.workload_names())
def test_pin_images(name: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Images have a tag that is not `latest`; services run the image the Tiltfile builds."""
    image = manifests.container(manifests.workload(rendered, name))["image"]
    reference, _, tag = image.partition(":")
    assert tag
    assert tag != "latest"
    if name in services.names():
        assert reference == f"setpoint/{name}"


def mounted_folders(workload: manifests.Manifest) -> Iterator[tuple[str, str]]:
    for mount in manifests.container(workload)["volumeMounts"]:
        yield mount["name"], mount["mountPath"]


@pytest.mark.parametrize("service", services.names())
def test_mount_what_is_written(service: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """Folders in the settings are mounted, and every mount has its volume."""
    workload = manifests.workload(rendered, service)
    mounts = dict(mounted_folders(workload))
    claims = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
    volumes = {each["name"] for each in workload["spec"]["template"]["spec"]["volumes"]}
    assert set(mounts) == claims | volumes
    for kind, name, _ in manifests.environment_sources(workload):
        if kind == "Secret":
            continue
        for value in manifests.data(rendered, kind, name).values():
            if value.startswith("/"):
                assert any(Path(value).is_relative_to(path) for path in mounts.values()), value


@pytest.mark.parametrize("service", ["router", "registry", "retraining"])
def test_keep_state_on_claims(service: str, rendered: tuple[manifests.Manifest, ...]) -> None:
    """The spool, the artifacts and running work outlive their pod."""
    workload = manifests.workload(rendered, service)
    assert workload["kind"] == "StatefulSet"
    assert len(workload["spec"]["volumeClaimTemplates"]) == 1


def gibibytes(text: str) -> int:
    return int(text.removesuffix("Gi")) * 2**30


def default(service: str, field: str) -> int:
    value = services.settings_of(service).model_fields[field].default
    assert isinstance(value, int)
    return value


def test_leave_room_on_volumes(rendered: tuple[manifests.Manifest, ...]) -> None:
    """Volumes are larger than what the services keep on them, so their own limits come first."""
    [claim] = manifests.workload(rendered, "router")["spec"]["volumeClaimTemplates"]
    storage = claim["spec"]["resources"]["requests"]["storage"]
    assert gibibytes(storage) > default("router", "spool_cap_bytes")
    volumes = manifests.workload(rendered, "inference")["spec"]["template"]["spec"]["volumes"]
    [cache] = [each["emptyDir"]["sizeLimit"] for each in volumes if each["name"] == "cache"]
    assert gibibytes(cache) > default("inference", "max_cache_bytes")


def test_leave_room_in_memory(rendered: tuple[manifests.Manifest, ...]) -> None:
    """Memory limits hold three times the artifacts that are loaded or checked at once."""
    limits = {
        name: manifests.container(manifests.workload(rendered, name))["resources"]["limits"][
            "memory"
        ]
        for name in ("inference", "registry")
    }
    assert gibibytes(limits["inference"]) > 3 * default("inference", "max_loaded_bytes")
    assert gibibytes(limits["registry"]) > 3 * default("registry", "max_artifact_bytes")


def test_use_one_namespace(dev: tuple[manifests.Manifest, ...]) -> None:
    """The overlay makes its namespace, enforces `restricted` there and puts everything into it."""
    namespace = manifests.named(dev, "setpoint-dev", "Namespace")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    for each in dev:
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "setpoint-dev"


def test_run_one_of_each_in_dev(dev: tuple[manifests.Manifest, ...]) -> None:
    """A laptop runs one pod of each; the base runs two of what answers predictions."""
    for each in manifests.of_kind(dev, *manifests.WORKLOADS):
        assert each["spec"]["replicas"] == 1
    base = manifests.of_kind(manifests.render(manifests.BASE), *manifests.WORKLOADS)
    doubled = {each["metadata"]["name"] for each in base if each["spec"]["replicas"] == 2}
    assert doubled == {"feature", "inference", "router"}


def configuration() -> dict[str, Any]:
    """The collector's configuration as its pod gets it."""
    rendered = manifests.render(manifests.BASE)
    volumes = manifests.workload(rendered, "collector")["spec"]["template"]["spec"]["volumes"]
    name = next(each["configMap"]["name"] for each in volumes if "configMap" in each)
    parsed: dict[str, Any] = yaml.safe_load(
        manifests.data(rendered, "ConfigMap", name)["collector.yaml"]
    )
    return parsed


def test_connect_collector_pipelines() -> None:
    """Pipelines use what is defined, and all of it; spans wait on disk, as long as it takes."""
    collector = configuration()
    for kind in ("receivers", "processors", "exporters"):
        used = {name for line in collector["service"]["pipelines"].values() for name in line[kind]}
        assert used == set(collector[kind])
    assert set(collector["service"]["extensions"]) == set(collector["extensions"])
    exporter = collector["exporters"]["otlp_grpc/jaeger"]
    assert exporter["sending_queue"]["storage"] == "file_storage"
    assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s"


def test_place_collector(rendered: tuple[manifests.Manifest, ...]) -> None:
    """Ports, queue folder and addresses of the configuration are those of the manifests."""
    collector = configuration()
    workload = manifests.workload(rendered, "collector")
    endpoints = [
        collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"],
        collector["exporters"]["prometheus"]["endpoint"],
        collector["extensions"]["health_check"]["endpoint"],
    ]
    assert [int(each.rpartition(":")[2]) for each in endpoints] == list(
        manifests.ports(workload).values()
    )
    assert collector["extensions"]["file_storage"]["directory"] in {
        path for _, path in mounted_folders(workload)
    }
    jaeger, _, port = collector["exporters"]["otlp_grpc/jaeger"]["endpoint"].partition(":")
    assert manifests.ports(manifests.workload(rendered, jaeger))["otlp"] == int(port)
    target = manifests.environment(manifests.render(manifests.DEV), "router")
    otlp = manifests.ports(workload)["otlp"]
    assert target["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{otlp}"


def test_scrape_every_service() -> None:
    """The collector looks for the metrics port of each service."""
    [job] = configuration()["receivers"]["prometheus"]["config"]["scrape_configs"]
    [discovery] = job["dns_sd_configs"]
    assert discovery["names"] == [f"_metrics._tcp.{name}" for name in services.names()]
