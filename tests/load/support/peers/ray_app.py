"""The model behind Ray Serve: ``ray_app.py MODEL PORT``, in an environment that has it."""

import sys
import time
from typing import Any

import joblib
import numpy as np
import ray  # type: ignore[import-not-found]  # Only in the environment that runs this.
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class Risk:
    """Answers rows in batches."""

    def __init__(self, model: str) -> None:
        """Load the estimator."""
        self.model = joblib.load(model)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]  # As above.
    async def score(self, rows: list[list[float]]) -> list[float]:
        """Return probabilities."""
        found: list[float] = self.model.predict_proba(np.array(rows, np.float32))[:, 1].tolist()
        return found

    async def __call__(self, request: Any) -> dict[str, float]:
        """Answer one request."""
        body = await request.json()
        return {"probability": await self.score(body["values"])}


if __name__ == "__main__":
    model, port = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    bound = Risk.bind(model)  # type: ignore[attr-defined]  # The decorator makes it.
    serve.run(bound, route_prefix="/predict")
    while True:
        time.sleep(60)
