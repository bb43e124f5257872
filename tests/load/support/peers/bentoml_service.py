"""The model behind BentoML, in an environment that has it; the model's file in ``PLAIN_MODEL``."""

import os

import bentoml  # type: ignore[import-not-found]  # Only in the environment that runs this.
import joblib
import numpy as np


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Risk:
    """Answers rows in batches."""

    def __init__(self) -> None:
        """Load the estimator."""
        self.model = joblib.load(os.environ["PLAIN_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)  # type: ignore[untyped-decorator]  # As above.
    def predict(self, values: list[list[float]]) -> list[float]:
        """Return probabilities."""
        found: list[float] = self.model.predict_proba(np.array(values, np.float32))[:, 1].tolist()
        return found
