"""The model behind LitServe: ``litserve_app.py MODEL PORT``, in an environment that has it."""

import sys
from typing import Any

import joblib
import litserve  # type: ignore[import-not-found]  # Only in the environment that runs this.
import numpy as np


class Api(litserve.LitAPI):  # type: ignore[misc]  # As above.
    """Answers rows in batches."""

    def setup(self, device: str) -> None:
        """Load the estimator."""
        del device
        self.model = joblib.load(sys.argv[1])

    def decode_request(self, request: dict[str, list[float]]) -> Any:
        """Return a row."""
        return np.array(request["values"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """Return rows as a matrix."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Return probabilities."""
        return self.model.predict_proba(x)[:, 1]

    def unbatch(self, output: Any) -> list[float]:
        """Return an answer for each row."""
        return [float(each) for each in output]

    def encode_response(self, output: float) -> dict[str, float]:
        """Return the body of an answer."""
        return {"probability": output}


if __name__ == "__main__":
    litserve.LitServer(Api(max_batch_size=64, batch_timeout=0.001), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )
