import re
from pathlib import Path

from setpoint_features import loading, messages

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(python|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_readme_says_what_works(tmp_path: Path) -> None:
    """What the README shows can be loaded as it stands, and its Python and YAML say the same."""
    found = []
    for index, (language, text) in enumerate(BLOCK.findall(README.read_text("utf-8"))):
        path = tmp_path / f"readme_{index}.{'py' if language == 'python' else 'yaml'}"
        path.write_text(text, encoding="utf-8")
        found.append(messages.to_message(loading.load(str(path))))

    python, yaml, windows = found
    for each in (python, yaml):
        derived = each.feature_sets[0].transformations[0]
        derived.ClearField("function")
        derived.ClearField("source_hash")
        # Python's example names the column, which YAML's leaves as the field is called.
        each.feature_sets[0].features[0].ClearField("alias")
    assert python == yaml
    assert [each.name for each in windows.views[0].aggregation.fields] == [
        "landings_24h",
        "late_share_7d",
        "last_delays",
    ]
