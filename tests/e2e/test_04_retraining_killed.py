"""Story 4: retraining is killed in the middle of a training; the run goes on, and ends once."""

import psutil
import pytest
from tests.support import parcels, waiting
from tests.support import world as worlds

from setpoint.registry.v1 import registry_service_pb2
from setpoint.retraining.v1 import retraining_pb2

# A new worker takes the run when the dead one's lease is over.
pytestmark = pytest.mark.timeout(300)

POLICY = "patient"
STEPS = ["snapshot", "validate", "train", "evaluate", "package", "register"]


async def _versions(world: worlds.World) -> int:
    request = registry_service_pb2.ListModelVersionsRequest(model=parcels.MODEL, page_size=1)
    response = await world.services.registry.ListModelVersions(request, timeout=worlds.CALL_SECONDS)
    return response.model_versions[0].version


def _training(world: worlds.World) -> list[psutil.Process]:
    """Finds the processes that train for the service."""
    service = psutil.Process(world.stack.pid("retraining"))
    found = []
    for process in (service, *service.children(recursive=True)):
        try:
            if "setpoint_retraining.training" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def test_run_goes_on_after_kill_in_training(world: worlds.World) -> None:
    """Proves that a run whose service dies while it trains makes its version, once."""
    # Enough rounds of boosting that the training is still at it when it is looked for.
    await world.put_policy(parcels.policy(POLICY, max_iter="1500", learning_rate="0.005"))
    newest = await _versions(world)
    started = await world.start_run(POLICY, parcels.midnight(world.days))

    async def training() -> list[psutil.Process]:
        return _training(world)

    processes = await waiting.until(training, bool)
    async with world.killed("retraining"):
        gone, alive = psutil.wait_procs(processes, timeout=30)
        assert gone
        assert not alive, "nobody waits for the result of an orphan"

    interrupted = await world.get_run(started.run_id)
    assert [step.name for step in interrupted.steps if not step.done] == ["train"]
    busy = (retraining_pb2.RUN_STATE_QUEUED, retraining_pb2.RUN_STATE_RUNNING)
    run = await waiting.until(
        lambda: world.get_run(started.run_id), lambda run: run.state not in busy
    )
    assert run.state == retraining_pb2.RUN_STATE_AWAITING_APPROVAL, run.error
    assert [step.name for step in run.steps] == STEPS
    assert all(step.done for step in run.steps)
    assert await _versions(world) == run.version == newest + 1

    ended = await world.decide(run, parcels.midnight(world.days), approve=False)
    assert ended.state == retraining_pb2.RUN_STATE_REJECTED
