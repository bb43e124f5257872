import sys
from pathlib import Path

import pytest

from setpoint_retraining.training import trainers
from setpoint_runtime import errors


def test_find_installed() -> None:
    """Both trainers of this package are found by name and say what they do."""
    assert {"hist_gradient_boosting", "logistic_regression"} <= set(trainers.installed())
    assert "HistGradientBoosting" in trainers.find("hist_gradient_boosting").description


def test_find_unknown() -> None:
    """A name that nothing answers to is refused with what there is."""
    with pytest.raises(errors.InvalidArgumentError, match="logistic_regression") as caught:
        trainers.find("magic")
    assert caught.value.reason is errors.Reason.TRAINER_NOT_FOUND
    assert caught.value.violations[0].field == "policy.trainer"


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"depth": "3"}, "policy.trainer_parameters['depth']", errors.Reason.UNKNOWN_FIELD),
        ({"max_iter": "many"}, "policy.trainer_parameters['max_iter']", errors.Reason.WRONG_TYPE),
        ({"max_iter": "1.5"}, "policy.trainer_parameters['max_iter']", errors.Reason.WRONG_TYPE),
        (
            {"learning_rate": "inf"},
            "policy.trainer_parameters['learning_rate']",
            errors.Reason.INVALID_FIELD,
        ),
        (
            {"learning_rate": "nan"},
            "policy.trainer_parameters['learning_rate']",
            errors.Reason.INVALID_FIELD,
        ),
    ],
)
def test_read_parameters_names_bad_one(
    given: dict[str, str], field: str, reason: errors.Reason
) -> None:
    """An unknown parameter and a value that cannot be read are named."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        trainers.read_parameters(trainers.find("hist_gradient_boosting"), given)
    assert caught.value.violations[0].field == field
    assert caught.value.reason is reason


def test_read_parameters_by_type() -> None:
    """A given value is read as the type of the default; the others keep theirs."""
    read = trainers.read_parameters(
        trainers.find("hist_gradient_boosting"), {"max_iter": "7", "learning_rate": "0.5"}
    )
    assert read["max_iter"] == 7
    assert isinstance(read["max_iter"], int)
    assert read["learning_rate"] == 0.5
    assert read["random_state"] == 0


def test_find_of_third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed beside this one adds a trainer by an entry point."""
    (tmp_path / "elsewhere.py").write_text(
        "class Mean:\n"
        "    description = 'the mean'\n"
        "    parameters = {'weight': 1.0}\n"
        "    def fit(self, features, label, **parameters):\n"
        "        return label.mean()\n"
    )
    folder = tmp_path / "elsewhere-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{trainers.GROUP}]\nmean = elsewhere:Mean\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        found = trainers.find("mean")
        assert trainers.read_parameters(found, {"weight": "2"}) == {"weight": 2.0}
    finally:
        sys.modules.pop("elsewhere", None)
