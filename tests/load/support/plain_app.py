"""The design that a team starts with: FastAPI, a joblib file, and the model called in the handler.

Run by ``uvicorn --factory tests.load.support.plain_app:create``, the file's name in ``PLAIN_MODEL``.
"""

import os

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

PATH = "/predict"
MODEL_VARIABLE = "PLAIN_MODEL"


class Question(BaseModel):
    """One row."""

    values: list[float]


class Answer(BaseModel):
    """What the model says."""

    probability: float


def create() -> FastAPI:
    """Makes the application."""
    app = FastAPI()
    # The benchmark wrote the file itself, a moment ago.
    model = joblib.load(os.environ[MODEL_VARIABLE])

    @app.post(PATH)
    def predict(question: Question) -> Answer:
        row = np.array([question.values], dtype=np.float32)
        return Answer(probability=float(model.predict_proba(row)[0, 1]))

    return app
