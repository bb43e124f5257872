import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_runtime import errors, paging

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | TEXTS, max_size=4)


@pytest.mark.parametrize(("asked", "given_size"), [(0, 100), (1, 1), (1000, 1000), (5000, 1000)])
def test_size(asked: int, given_size: int) -> None:
    """No size means the default, a large one is cut."""
    assert paging.size(asked) == given_size


def test_size_negative() -> None:
    """A negative size is refused."""
    with pytest.raises(errors.InvalidArgumentError, match="page_size"):
        paging.size(-1)


@given(KEYS)
def test_decode_own_token(key: list[int | str]) -> None:
    """A token gives back the key it was made of."""
    token = paging.encode("ListThings", ["a"], key)
    kinds = [type(part) for part in key]
    assert paging.decode("ListThings", ["a"], token, kinds) == tuple(key)


@given(time=st.integers(-(2**63), 2**63 - 1), last=st.uuids().map(str))
def test_decode_own_token_with_id(time: int, last: str) -> None:
    """A part that is the text of a UUID is given back as such."""
    token = paging.encode("ListThings", [], [time, last])
    assert paging.decode("ListThings", [], token, [int, uuid.UUID]) == (time, last)


ID = "0196f2a0-7e5b-7c3a-9d1e-2f4a6b8c0d1e"


@pytest.mark.parametrize(
    "key",
    [
        [],
        [1],
        [1, 2],
        ["1", ID],
        [True, ID],
        [2**63, ID],
        [-(2**63) - 1, ID],
        [1.0, ID],
        [1, "x"],
        [1, ID + "\0"],
        [1, ID, 3],
        [None, ID],
    ],
)
def test_decode_refuses_foreign_key(key: list[object]) -> None:
    """A key that the list could not have made is refused, whoever wrote the token."""
    token = paging.encode("ListThings", [], key)  # type: ignore[arg-type]  # forged
    with pytest.raises(errors.InvalidArgumentError) as caught:
        paging.decode("ListThings", [], token, [int, uuid.UUID])
    assert caught.value.reason == errors.Reason.INVALID_PAGE_TOKEN


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_decode_refuses_what_no_database_holds(text: str) -> None:
    """A text that the database would refuse never gets there."""
    token = paging.encode("ListThings", [], [text])
    with pytest.raises(errors.InvalidArgumentError):
        paging.decode("ListThings", [], token, [str])


def test_decode_first_page() -> None:
    """An empty token means the first page."""
    assert paging.decode("ListThings", [], "", [str]) is None


@pytest.mark.parametrize(
    "token",
    [
        paging.encode("ListOthers", ["a"], ["x"]),
        paging.encode("ListThings", ["b"], ["x"]),
        paging.encode("ListThings", ["a"], [1]),
        paging.encode("ListThings", ["a"], ["x", "y"]),
        "!!!",
        "bm8",
        "MQ",
        "[" * 2000,
        "x" * 10_000,
    ],
)
def test_decode_foreign_token(token: str) -> None:
    """A token of another list, or of nobody, is refused with its reason."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        paging.decode("ListThings", ["a"], token, [str])
    assert caught.value.reason == errors.Reason.INVALID_PAGE_TOKEN


@given(st.text(max_size=100))
def test_decode_any_text(token: str) -> None:
    """Whatever comes is a key, a first page or a refusal."""
    try:
        found = paging.decode("ListThings", [], token, [str])
    except errors.InvalidArgumentError:
        return
    assert found is None or len(found) == 1
