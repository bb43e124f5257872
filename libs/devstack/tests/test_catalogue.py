import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_devstack import catalogue, errors

NAMES = [service.name for service in catalogue.ALL]


def test_documents_the_ports_of_the_design() -> None:
    """Default ports are those other programs are told of."""
    assert {service.name: service.port for service in catalogue.ALL} == {
        "router": 7400,
        "inference": 7401,
        "feature": 7402,
        "validation": 7403,
        "monitoring": 7404,
        "retraining": 7405,
        "registry": 7406,
        "batch": 7407,
    }


@given(names=st.permutations(NAMES), number=st.integers(0, len(NAMES)))
def test_starts_services_after_those_they_call(names: list[str], number: int) -> None:
    """Whatever subset in whatever order is asked for, each comes after its peers."""
    chosen = catalogue.select(names[:number])
    assert sorted(service.name for service in chosen) == sorted(names[:number])
    for place, service in enumerate(chosen):
        later = {other.name for other in chosen[place:]}
        assert not later.intersection(service.peers)


def test_refuses_what_cannot_be() -> None:
    """Unknown names, doubles and circles are refused by name."""
    with pytest.raises(errors.DevstackError, match="'rooter'"):
        catalogue.select(["rooter"])
    with pytest.raises(errors.DevstackError, match="twice"):
        catalogue.select(["router", "router"])
    circle = [catalogue.Service("a", 1, peers=("b",)), catalogue.Service("b", 2, peers=("a",))]
    with pytest.raises(errors.DevstackError, match="a, b"):
        catalogue.select(circle)


def test_tells_a_service_what_it_needs(tmp_path: pathlib.Path) -> None:
    """Its own ports, stores and folders, and the addresses of its peers that run."""
    inference = next(service for service in catalogue.ALL if service.name == "inference")
    found = catalogue.environment(
        inference, tmp_path, {"registry": "127.0.0.1:1", "router": "127.0.0.1:2"}, (3, 4), {}
    )
    assert found == {
        "SETPOINT_INFERENCE_PORT": "3",
        "SETPOINT_INFERENCE_METRICS_PORT": "4",
        "SETPOINT_INFERENCE_LOG_FORMAT": "json",
        "SETPOINT_INFERENCE_DRAIN_SECONDS": "0.05",
        "SETPOINT_INFERENCE_CACHE_DIRECTORY": str(tmp_path / "cache" / "inference"),
        "SETPOINT_INFERENCE_REGISTRY_ADDRESS": "127.0.0.1:1",
    }
    assert (tmp_path / "cache" / "inference").is_dir()
    assert catalogue.environment(inference, tmp_path, {}, (3, 4), {"DATABASE_URL": "x"}).keys() >= {
        "SETPOINT_INFERENCE_DATABASE_URL"
    }


def test_replicas_take_the_next_hundreds(tmp_path: pathlib.Path) -> None:
    """Further replicas have names, ports and folders of their own, and are the same service."""
    chosen = catalogue.select(["router", "inference"], {"inference": 3})
    assert [each.name for each in chosen] == ["inference", "inference-2", "inference-3", "router"]
    assert [each.port for each in chosen[:3]] == [7401, 7501, 7601]
    assert {each.service for each in chosen[:3]} == {"inference"}
    found = catalogue.environment(chosen[1], tmp_path, {}, (3, 4), {})
    assert found["SETPOINT_INFERENCE_PORT"] == "3"
    assert found["SETPOINT_INFERENCE_CACHE_DIRECTORY"].endswith("cache/inference-2")


def test_refuses_replicas_that_cannot_be() -> None:
    """Services that run once, that are not there, and strange numbers are refused by name."""
    assert catalogue.parse_replicas(["inference=2"]) == {"inference": 2}
    for replicas, message in (
        ({"registry": 2}, "registry runs once"),
        ({"inference": 0}, "not 0"),
        ({"console": 2}, "'console'"),
    ):
        with pytest.raises(errors.DevstackError, match=message):
            catalogue.select(None, replicas)
    for text in ("inference", "=2", "inference=two"):
        with pytest.raises(errors.DevstackError, match="inference=2"):
            catalogue.parse_replicas([text])
