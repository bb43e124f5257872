import os
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_runtime import ids

_LAST_US = ((1 << 48) - 1) * 1_000 + 999


def test_uuid7_grows_strictly() -> None:
    """Many identifiers made at once are in order and all different."""
    made = [ids.uuid7() for _ in range(20_000)]

    assert made == sorted(set(made))


def test_uuid7_grows_when_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adjusted wall clock does not produce an identifier before an earlier one."""
    first = ids.uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 0)

    assert ids.uuid7() > first


def test_uuid7_grows_across_threads() -> None:
    """Threads never get the same identifier."""
    made: list[list[str]] = [[] for _ in range(4)]

    def make(into: list[str]) -> None:
        into.extend(ids.uuid7() for _ in range(3_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(into == sorted(into) for into in made)
    assert len({each for into in made for each in into}) == 12_000


@given(st.integers(min_value=0, max_value=_LAST_US))
def test_uuid7_has_version_variant_and_time(now_us: int) -> None:
    """The bits are those of RFC 9562, and the time is the one given."""
    made = uuid.UUID(ids.uuid7(now_us))

    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == now_us // 1_000


@given(st.lists(st.integers(min_value=0, max_value=_LAST_US), min_size=2, max_size=50))
def test_uuid7_follows_given_times(times: list[int]) -> None:
    """Identifiers for times that do not go back grow, also within one millisecond."""
    made = [ids.uuid7(moment) for moment in sorted(times)]

    assert made == sorted(set(made))


@given(st.lists(st.integers(min_value=0, max_value=5_000), min_size=2, max_size=50))
def test_uuid7_differs_for_any_order_of_times(times: list[int]) -> None:
    """Going back and forth in history never repeats an identifier."""
    made = [ids.uuid7(moment) for moment in times]

    assert len(set(made)) == len(made)


@pytest.mark.parametrize("now_us", [-1, _LAST_US + 1])
def test_uuid7_refuses_time_that_does_not_fit(now_us: int) -> None:
    """A time outside the 48 bits is refused rather than cut."""
    with pytest.raises(ValueError, match=str(now_us)):
        ids.uuid7(now_us)


def test_uuid7_of_now_is_of_now() -> None:
    """The time of a live identifier is that of the machine."""
    millisecond = uuid.UUID(ids.uuid7()).int >> 80

    assert abs(millisecond - time.time_ns() // 1_000_000) < 5_000


def test_forked_child_restarts_counter() -> None:
    """The hook that runs in a forked child makes the generator take a new seed."""
    generator = ids._Generator()
    millisecond = 1_700_000_000_000
    parent = uuid.UUID(generator.next(millisecond, may_run_ahead=True)).int
    generator.reset()
    child = uuid.UUID(generator.next(millisecond, may_run_ahead=True)).int

    # Both counters are random; that they follow each other has a chance of 2^-41.
    assert (child >> 32) != (parent >> 32) + 1
    assert hasattr(os, "register_at_fork")


@given(st.uuids())
def test_is_uuid_accepts_canonical_form(value: uuid.UUID) -> None:
    """The canonical form of any UUID is one."""
    assert ids.is_uuid(str(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "01890A5D-AC96-774B-BCCE-B302099A8057",
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
        "01890a5dac96774bbcceb302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a8057\n",
    ],
)
def test_is_uuid_refuses_other_forms(text: str) -> None:
    """Other spellings would make two keys of one identifier."""
    assert not ids.is_uuid(text)
