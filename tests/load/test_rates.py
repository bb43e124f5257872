import functools
import threading

from tests.load.support import memory, rates


async def test_of_threads_asks_all_at_once() -> None:
    """Each caller asks in a thread of its own, in turn with the others, and all that was answered counts."""
    together = threading.Barrier(3)
    asked: list[list[int]] = [[], [], []]

    def ask(place: int, number: int) -> None:
        asked[place].append(number)
        if len(asked[place]) == 2:
            # After a warm-up all three are under way together, or this never ends.
            together.wait()

    asks = [functools.partial(ask, place) for place in range(3)]
    found = await rates.of_threads(asks, 10, 0.01)
    assert all(each[:2] == [0, place] for place, each in enumerate(asked))
    assert all(
        each[1:] == list(range(place, len(each) * 3, 3))[: len(each) - 1]
        for place, each in enumerate(asked)
    )
    answers = sum(len(each) - 1 for each in asked)
    assert 0 < found.rate <= 10 * answers / 0.01


def test_reading_sums_up() -> None:
    """The rate counts things, the time is that of an answer."""
    assert rates.reading(100, 2.0, [0.1, 0.2, 0.3]) == rates.Reading(150.0, 200.0)


def test_peak_is_the_kernels() -> None:
    """The greatest resident size is read in bytes, and a process has one."""
    assert memory.high_water("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n") == 2 * 2**20
