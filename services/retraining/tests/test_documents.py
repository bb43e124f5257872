import json

from hypothesis import given
from hypothesis import strategies as st

from setpoint_retraining.domain.policy import Policy, RolloutStep
from setpoint_retraining.domain.run import Run, RunState, Step
from setpoint_retraining.store import documents

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TIME = st.integers(-(2**63), 2**63 - 1)
STEP = st.builds(RolloutStep, *[st.integers(0, 10_000)] * 3)
POLICY = st.builds(
    Policy,
    *[TEXT] * 7,
    *[TIME] * 3,
    TEXT,
    st.dictionaries(TEXT, TEXT, max_size=2),
    TEXT,
    TEXT,
    NUMBER,
    st.booleans(),
    st.lists(STEP, max_size=2).map(tuple),
    TIME,
    TIME,
)
JSON = st.dictionaries(TEXT, st.one_of(TEXT, NUMBER, st.lists(TIME, max_size=2)), max_size=2)
RUN = st.builds(
    Run,
    run_id=st.uuids().map(str),
    plan=POLICY,
    trigger=TEXT,
    known_at=TIME,
    state=st.sampled_from(RunState),
    create_time=TIME,
    steps=st.lists(st.builds(Step, TEXT, TIME, TIME, TEXT, JSON), max_size=2).map(tuple),
    version=st.one_of(st.none(), TIME),
    metrics=st.dictionaries(TEXT, NUMBER, max_size=2),
    rollout_step=st.integers(-1, 5),
    error=TEXT,
    etag=st.integers(0, 2**63 - 1),
)


@given(policy=POLICY)
def test_policy_round_trip(policy: Policy) -> None:
    """A policy comes back from its JSON text as it was."""
    text = json.dumps(documents.policy_to_json(policy))
    assert documents.policy_from_json(json.loads(text)) == policy


@given(run=RUN)
def test_run_round_trip(run: Run) -> None:
    """A run comes back from its JSON text as it was; its etag is kept beside it."""
    text = json.dumps(documents.run_to_json(run))
    assert documents.run_from_json(json.loads(text), run.etag) == run
