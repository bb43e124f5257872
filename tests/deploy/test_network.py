"""Who may talk to whom, by an evaluation of the NetworkPolicies as Kubernetes defines them."""

from typing import Any

import pytest
from tests.deploy import manifests, services

METRICS = "metrics"
ALL = manifests.workload_names()


def matches(selector: manifests.Manifest, labels: dict[str, str]) -> bool:
    """Says whether a label selector selects; an empty one selects everything."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "Exists", "no other operator is used"
        if expression["key"] not in labels:
            return False
    return True


def allows_port(rule: manifests.Manifest, target: manifests.Manifest, port: int) -> bool:
    """Says whether a rule includes a TCP port of the target; named ports are the target's."""
    known = manifests.ports(target)
    return any(
        each["protocol"] == "TCP" and known.get(each["port"], each["port"]) == port
        for each in rule["ports"]
    )


def selects_peer(peers: list[manifests.Manifest], labels: dict[str, str]) -> bool:
    """Says whether one of a rule's peers is a pod of this namespace with these labels."""
    return any(
        "namespaceSelector" not in peer and matches(peer["podSelector"], labels) for peer in peers
    )


def may_pass(
    rendered: tuple[manifests.Manifest, ...],
    direction: str,
    subject: manifests.Manifest,
    other: manifests.Manifest,
    port: int,
) -> bool:
    """Evaluates one direction: open if no policy selects the subject, else if one of them allows."""
    side = "from" if direction == "Ingress" else "to"
    target = subject if direction == "Ingress" else other
    policies = [
        policy["spec"]
        for policy in manifests.of_kind(rendered, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], manifests.pod_labels(subject))
    ]
    if not policies:
        return True
    return any(
        selects_peer(rule[side], manifests.pod_labels(other)) and allows_port(rule, target, port)
        for policy in policies
        for rule in policy.get(direction.lower(), [])
    )


def connects(source: str, target: str, port: int) -> bool:
    """Says whether a pod of one workload reaches a port of another's: out of one and into the other."""
    rendered = manifests.render(manifests.DEV)
    caller, called = manifests.workload(rendered, source), manifests.workload(rendered, target)
    return may_pass(rendered, "Egress", caller, called, port) and may_pass(
        rendered, "Ingress", called, caller, port
    )


def expected(source: str) -> set[tuple[str, str]]:
    """Lists what a workload must reach, as workload and name of the port, and nothing more."""
    if source == "collector":
        return {("jaeger", "otlp")} | {(service, METRICS) for service in services.names()}
    if source not in services.names():
        return set()
    main = {"postgres": "postgres", "valkey": "valkey"}
    return {(peer, main.get(peer, "grpc")) for peer in services.calls(source)} | {
        ("collector", "otlp")
    }


@pytest.mark.parametrize("source", ALL)
def test_allow_exactly_the_edges(source: str) -> None:
    """A workload reaches what its settings have addresses of, and no other port of any pod."""
    rendered = manifests.render(manifests.DEV)
    reached = {
        (target, name)
        for target in ALL
        for name, port in manifests.ports(manifests.workload(rendered, target)).items()
        if target != source and connects(source, target, port)
    }
    assert reached == expected(source)


def test_keep_inference_inside() -> None:
    """The one that runs models reaches the registry and the collector, no store and nothing outside."""
    assert expected("inference") == {("registry", "grpc"), ("collector", "otlp")}


def test_deny_by_default() -> None:
    """A pod without any label may neither call nor be called."""
    rendered = manifests.render(manifests.DEV)
    stranger: dict[str, Any] = {
        "spec": {"template": {"metadata": {"labels": {}}, "spec": {"containers": [{"ports": []}]}}}
    }
    for name in ALL:
        workload = manifests.workload(rendered, name)
        for port in manifests.ports(workload).values():
            assert not may_pass(rendered, "Egress", stranger, workload, port)
            assert not may_pass(rendered, "Ingress", workload, stranger, port)


def test_leave_through_named_peers_alone() -> None:
    """No rule is open to addresses or to every pod; the one beyond the namespace is for names."""
    for policy in manifests.of_kind(manifests.render(manifests.DEV), "NetworkPolicy"):
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                assert rule[side]
                assert rule["ports"]
                for peer in rule[side]:
                    assert "ipBlock" not in peer
                    if "namespaceSelector" in peer:
                        assert policy["metadata"]["name"] == "resolve-names"
                        assert {each["port"] for each in rule["ports"]} == {53}
