"""Letting a run's version live, by a person or by its policy."""

from __future__ import annotations

from setpoint_retraining import ports
from setpoint_retraining.domain.run import Run
from setpoint_runtime import errors


async def approve(
    registry: ports.Registry, run: Run, digest: str, approver: str, comment: str
) -> None:
    """Store an approval.

    Raises:
        FailedPreconditionError: CHAMPION_CHANGED: the run was found better than a version that is not
            the champion any more.
    """
    champion = await registry.champion(run.plan.model)
    version = None if champion is None else champion.version
    if version != run.champion_version:
        raise errors.FailedPreconditionError(
            errors.Reason.CHAMPION_CHANGED,
            f"run {run.run_id} was judged against {_named(run.champion_version)}, now the "
            f"champion is {_named(version)}; start a new run",
        )
    await registry.decide(run, True, digest, approver, comment)


def _named(version: int | None) -> str:
    return "none" if version is None else f"version {version}"
