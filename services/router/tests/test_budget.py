import hypothesis.strategies as st
from hypothesis import given

from setpoint_router.domain import latency
from setpoint_router.domain.budget import RetryBudget


@given(
    st.floats(0, 1),
    st.integers(1, 5),
    st.lists(st.sampled_from(["begin", "end", "take", "give"]), max_size=300),
)
def test_budget_is_never_exceeded(share: float, minimum: int, steps: list[str]) -> None:
    """A repetition begins only while there are fewer than the share, or than the minimum."""
    budget = RetryBudget(share, minimum)
    for step in steps:
        if step == "begin":
            budget.active += 1
        elif step == "end" and budget.active:
            budget.active -= 1
        elif step == "give" and budget.taken:
            budget.give_back()
        elif step == "take":
            before = budget.taken
            may = before < max(minimum, int(share * budget.active))
            assert budget.take() is may
            assert budget.taken == before + may


def test_budget_grows_with_the_calls() -> None:
    """A fifth of a hundred calls is twenty."""
    budget = RetryBudget(0.2, 3)
    budget.active = 100
    assert sum(budget.take() for _ in range(50)) == 20


def test_latencies_say_nothing_of_a_few_calls() -> None:
    """A quantile needs enough calls."""
    seen = latency.Latencies()
    for _ in range(latency.ENOUGH - 1):
        seen.note(1.0, 0.9)
        assert seen.value is None


def test_latencies_follow_the_last_calls() -> None:
    """A quantile forgets what is long past."""
    seen = latency.Latencies()
    for _ in range(latency.KEPT):
        seen.note(9.0, 0.8)
    assert seen.value == 9.0
    for number in range(latency.KEPT):
        seen.note(2.0 if number % 10 == 0 else 0.5, 0.8)
    assert seen.value == 0.5
