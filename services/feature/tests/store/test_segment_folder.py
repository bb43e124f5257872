import datetime as dt
import pathlib
from typing import Any

import pytest

from setpoint_feature.store import segment_folder


def test_file_that_goes_while_files_are_listed_hides_no_other(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may remove or rename files at any time; all the others are listed nevertheless."""
    folder = segment_folder.SegmentFolder(str(tmp_path), "store")
    assert folder.modified() == {}
    for path in ("a/1", "a/2", "b/1"):
        folder.write(path, b"x")
    files: Any = folder._files
    ask = files.modified

    def remove_first(name: str) -> dt.datetime:
        if name.endswith("a/1"):
            pathlib.Path(name).unlink()
        found: dt.datetime = ask(name)
        return found

    monkeypatch.setattr(files, "modified", remove_first)

    assert set(folder.modified()) == {"a/2", "b/1"}
