"""A model in MLServer: for each row the sum of two numbers, and the length of a text."""

from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse


class Sums(MLModel):  # type: ignore[misc]  # the package lives in another environment
    """Adds up numbers, measures texts."""

    async def predict(self, payload: Any) -> Any:
        """Answer a request."""
        given = {each.name: each for each in payload.inputs}
        matrix = NumpyCodec.decode_input(given["X"])
        texts = StringCodec.decode_input(given["text"])
        lengths = np.array([len(text) for text in texts])
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[
                NumpyCodec.encode_output("sum", matrix.sum(axis=1)),
                NumpyCodec.encode_output("length", lengths),
                StringCodec.encode_output("upper", [text.upper() for text in texts]),
            ],
        )
