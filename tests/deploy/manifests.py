"""The rendered manifests, and questions about them."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy" / "k8s" / "base"
DEV = ROOT / "deploy" / "k8s" / "overlays" / "dev"
KUBECTL = Path(sys.executable).with_name("kubectl")

Manifest = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet")


@cache
def render(folder: Path) -> tuple[Manifest, ...]:
    """Builds a folder with the kustomize inside kubectl; needs no cluster."""
    finished = subprocess.run(
        [str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return tuple(yaml.load_all(finished.stdout, Loader=yaml.CSafeLoader))


def of_kind(rendered: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    """Returns the manifests of some kinds."""
    return [manifest for manifest in rendered if manifest["kind"] in kinds]


def named(rendered: tuple[Manifest, ...], name: str, *kinds: str) -> Manifest:
    """Returns the one manifest of a name among some kinds."""
    found = [each for each in of_kind(rendered, *kinds) if each["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kinds} are named {name}"
    return found[0]


def workload(rendered: tuple[Manifest, ...], name: str) -> Manifest:
    """Returns the Deployment or StatefulSet of a name."""
    return named(rendered, name, *WORKLOADS)


def workload_names() -> list[str]:
    """Lists all workloads, those of stores and telemetry too."""
    return sorted(each["metadata"]["name"] for each in of_kind(render(DEV), *WORKLOADS))


def container(manifest: Manifest) -> Manifest:
    """Returns the one container of a workload."""
    containers = manifest["spec"]["template"]["spec"]["containers"]
    assert len(containers) == 1
    only: Manifest = containers[0]
    return only


def pod_labels(manifest: Manifest) -> dict[str, str]:
    """Returns the labels of a workload's pods."""
    labels: dict[str, str] = manifest["spec"]["template"]["metadata"]["labels"]
    return labels


def ports(manifest: Manifest) -> dict[str, int]:
    """Returns the container ports of a workload by name."""
    return {port["name"]: port["containerPort"] for port in container(manifest)["ports"]}


def environment_sources(manifest: Manifest) -> Iterator[tuple[str, str, str | None]]:
    """Yields kind, name and (for a single variable) key of what a container's variables come from."""
    for source in container(manifest).get("envFrom", []):
        if "configMapRef" in source:
            yield "ConfigMap", source["configMapRef"]["name"], None
        else:
            yield "Secret", source["secretRef"]["name"], None
    for variable in container(manifest).get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference is not None:
            yield "Secret", reference["name"], reference["key"]


def data(rendered: tuple[Manifest, ...], kind: str, name: str) -> dict[str, str]:
    """Returns the entries of a ConfigMap or a Secret, the latter's decoded."""
    manifest = named(rendered, name, kind)
    values: dict[str, str] = manifest.get("data", {})
    if kind == "ConfigMap":
        return values
    return {key: base64.b64decode(value).decode() for key, value in values.items()}


def environment(rendered: tuple[Manifest, ...], name: str) -> dict[str, str]:
    """Returns the variables of a workload's container that have a fixed value."""
    manifest = workload(rendered, name)
    values: dict[str, str] = {}
    for kind, source, key in environment_sources(manifest):
        if key is None:
            values |= data(rendered, kind, source)
    for variable in container(manifest).get("env", []):
        if "value" in variable:
            values[variable["name"]] = variable["value"]
    return values
