import pytest

from setpoint_batch.domain import urls
from setpoint_runtime import errors


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/data/in.csv", "file:///data/in.csv"),
        ("/data//in/", "file:///data/in"),
        ("file:///data/./in", "file:///data/in"),
        ("s3://bucket/in/", "s3://bucket/in"),
    ],
)
def test_normal_form(given: str, expected: str) -> None:
    """Ways to write one place become one."""
    assert urls.normal("url", given) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        "data/in.csv",
        "/data/../etc/passwd",
        "file:///data/../etc/passwd",
        "s3://bucket/../other",
        "https://host/jobs/%2e%2E/other",
        "filecache::s3://bucket/in",
        "/data/\x00in",
        "://in",
        "/" + "a" * 2_000,
    ],
)
def test_normal_refuses(given: str) -> None:
    """What is no plain URL, or climbs out of its folder, is refused by the field's name."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        urls.normal("spec.input.url", given)
    assert caught.value.violations[0].field == "spec.input.url"


@pytest.mark.parametrize("url", ["file:///data/in", "s3://bucket/jobs/in", "file:///data/a/b"])
def test_check_allowed(url: str) -> None:
    """What lies below a prefix may be used."""
    assert urls.check_allowed("url", url, ["/data", "s3://bucket/jobs"]) == url


@pytest.mark.parametrize(
    "url", ["file:///database/in", "file:///data", "s3://bucket/other", "s3://bucket2/jobs/in"]
)
def test_check_allowed_refuses(url: str) -> None:
    """A name that only begins like a prefix, the prefix itself and other places are refused."""
    with pytest.raises(errors.PermissionDeniedError) as caught:
        urls.check_allowed("url", url, ["/data", "s3://bucket/jobs/"])
    assert caught.value.reason is errors.Reason.URL_REFUSED


def test_check_allowed_everything_local() -> None:
    """The root as prefix allows every local file and nothing else."""
    assert urls.check_allowed("url", "file:///etc/x", ["file:///"]) == "file:///etc/x"
    with pytest.raises(errors.PermissionDeniedError):
        urls.check_allowed("url", "s3://bucket/x", ["file:///"])
