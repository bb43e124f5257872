"""Does a job's tasks on a local Ray cluster: ``work.py QUESTION``, a JSON object.

Prints what each task answered, and how a task that was cancelled in the middle ended.
"""

import asyncio
import json
import sys
from typing import Any

from setpoint_batch import ports
from setpoint_batch.adapters.ray_executor import RayExecutor
from setpoint_runtime import errors


async def main() -> None:
    """Plans, scores, commits, fails and cancels."""
    question = json.loads(sys.argv[1])
    task, endless = question["task"], question["endless"]
    async with RayExecutor("local", 4, task["around"]) as executor:
        plan = await executor.run({**task, "kind": "plan"})
        parts = await asyncio.gather(
            *(executor.run(scoring(task, plan, each)) for each in plan["partitions"])
        )
        story = {"files": plan["files"], "parts": parts, "counts": {}, "form": plan["form"]}
        answer = await executor.run({**task, "kind": "commit", **story})
        refused = await failure(executor.run({**task, "kind": "plan", "name": "other"}))
        waiting = asyncio.ensure_future(executor.run({**endless, "kind": "plan"}))
        await asyncio.to_thread(wait_for_reader, question["pipe"])
        waiting.cancel()
        ended = await asyncio.gather(waiting, return_exceptions=True)
        after = await executor.run({**task, "kind": "committed"})
    told = {
        "parts": parts,
        "manifest_url": answer["manifest_url"],
        "refused": refused,
        "cancelled": type(ended[0]).__name__,
        "after": after["manifest_url"],
    }
    print(json.dumps(told))


def scoring(task: ports.Json, plan: ports.Json, partition: ports.Json) -> dict[str, Any]:
    """Returns the task for one partition."""
    file = plan["files"][partition["file"]]
    return {**task, "kind": "score", "partition": partition, "file": file, "form": plan["form"]}


async def failure(call: Any) -> str:
    """Returns the reason with which a task is refused."""
    try:
        await call
    except errors.SetpointError as error:
        return error.reason.value
    return ""


def wait_for_reader(pipe: str) -> None:
    """Returns once the endless task has opened its input."""
    with open(pipe, "wb") as file:  # noqa: PTH123
        file.write(b"a,b\n")


if __name__ == "__main__":
    asyncio.run(main())
