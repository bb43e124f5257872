import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_runtime import errors, names


@given(st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True))
def test_check_name_returns_valid_name(name: str) -> None:
    """A name that fits the rule comes back as it is."""
    assert names.check_name("name", name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "a/b", "../a", "a\n", "ä", "a.b", "a\x00", "x" * 65, "٣"]
)
def test_check_name_refuses_others(name: str) -> None:
    """What could leave a folder, a key or a query is refused, and the field is named."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        names.check_name("route.name", name)

    assert caught.value.reason is errors.Reason.INVALID_FIELD
    assert caught.value.violations[0].field == "route.name"
