"""Ways to train, chosen by name.

A package adds one by an entry point in the group ``setpoint.trainers`` that names a class with the
shape of `Trainer`. The service loads the class to check parameters, a process of its own fits: what only
fitting needs is imported there, since scikit-learn takes seconds to import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import metadata
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from setpoint_runtime import errors

GROUP = "setpoint.trainers"


class Trainer(Protocol):
    """One way to train a binary classifier on a float32 matrix in which NaN means missing."""

    description: ClassVar[str]
    parameters: ClassVar[Mapping[str, int | float]]
    """Parameters with their defaults; a value is given as text and read as the default's type."""

    def fit(
        self, features: npt.NDArray[np.float32], label: npt.NDArray[np.int64], **parameters: Any
    ) -> Any:
        """Return a fitted scikit-learn estimator with predict_proba."""


class HistGradientBoosting:
    """Gradient boosting over histograms: a strong default for tables, at home with missing values."""

    description: ClassVar[str] = "scikit-learn's HistGradientBoostingClassifier"
    parameters: ClassVar[Mapping[str, int | float]] = {
        "max_iter": 100,
        "max_leaf_nodes": 15,
        "learning_rate": 0.06,
        "l2_regularization": 1.0,
        "min_samples_leaf": 100,
        "random_state": 0,
    }

    def fit(
        self, features: npt.NDArray[np.float32], label: npt.NDArray[np.int64], **parameters: Any
    ) -> Any:
        """Return the fitted estimator."""
        from sklearn import ensemble

        return ensemble.HistGradientBoostingClassifier(**parameters).fit(features, label)


class LogisticRegression:
    """A linear baseline: medians for missing values, then unit variance."""

    description: ClassVar[str] = "scikit-learn's LogisticRegression on scaled features"
    parameters: ClassVar[Mapping[str, int | float]] = {"C": 1.0, "max_iter": 1000}

    def fit(
        self, features: npt.NDArray[np.float32], label: npt.NDArray[np.int64], **parameters: Any
    ) -> Any:
        """Return the fitted pipeline."""
        from sklearn import impute, linear_model, pipeline, preprocessing

        return pipeline.make_pipeline(
            impute.SimpleImputer(strategy="median", keep_empty_features=True),
            preprocessing.StandardScaler(),
            linear_model.LogisticRegression(**parameters),
        ).fit(features, label)


def installed() -> dict[str, Trainer]:
    """Finds the installed trainers, by name."""
    found = metadata.entry_points(group=GROUP)
    return {each.name: each.load()() for each in sorted(found, key=lambda each: each.name)}


def find(name: str) -> Trainer:
    """Returns a trainer. Raises InvalidArgumentError (TRAINER_NOT_FOUND)."""
    trainers = installed()
    if name not in trainers:
        rule = f"must be one of {', '.join(trainers)}"
        raise errors.invalid("policy.trainer", name, rule, errors.Reason.TRAINER_NOT_FOUND)
    return trainers[name]


def read_parameters(trainer: Trainer, given: Mapping[str, str]) -> dict[str, int | float]:
    """Reads parameters given as text, the others by default.

    Raises:
        InvalidArgumentError: Names an unknown parameter or an unreadable value.
    """
    values = dict(trainer.parameters)
    for name, text in given.items():
        field = f"policy.trainer_parameters[{name!r}]"
        if name not in values:
            rule = f"must be one of {', '.join(values)}"
            raise errors.invalid(field, text, rule, errors.Reason.UNKNOWN_FIELD)
        kind = type(values[name])
        try:
            values[name] = kind(text)
        except ValueError:
            raise errors.invalid(
                field, text, f"must be a {kind.__name__}", errors.Reason.WRONG_TYPE
            ) from None
        if not math.isfinite(values[name]):
            raise errors.invalid(field, text, "must be finite")
    return values
