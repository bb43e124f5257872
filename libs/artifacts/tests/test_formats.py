import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from setpoint_artifacts import formats, refusal, testing
from setpoint_runtime import errors


class Payload:
    """What an attacker would send: opening it would call a function."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("executed",))


def zipped(**files: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return target.getvalue()


def tarred() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pkl"))
    return target.getvalue()


def npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.array([{}], object), allow_pickle=True)
    return target.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [Payload(), {"a": [1, 2.5, None]}, [1], (1, "x"), np.arange(3), "text", 7, b"bytes", None],
    ids=repr,
)
def test_detect_pickle(value: object, protocol: int) -> None:
    """Pickle files of every protocol are recognised, with or without a payload."""
    assert formats.detect(pickle.dumps(value, protocol)) == "pickle"


def test_detect_pickle_cut_off() -> None:
    """An old pickle that names a function is recognised even when its end is missing."""
    assert formats.detect(b"cos\nsystem\n(S'echo") == "pickle"
    assert formats.detect(pickle.dumps(Payload(), 4)[:20]) == "pickle"


@pytest.mark.parametrize(
    "compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)]
)
def test_detect_joblib(compress: object, tmp_path: Path) -> None:
    """What joblib writes is recognised as a pickle through each of its compressions."""
    target = tmp_path / "model.joblib"
    joblib.dump({"weights": np.arange(1000.0)}, target, compress=compress)
    found = formats.detect(target.read_bytes())
    assert found is not None
    assert "pickle" in found
    assert "joblib" in found


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (zipped(archive__data__pkl=b""), "zip archive"),
        (zipped(**{"archive/data.pkl": b"x"}), "PyTorch archive (zip with a pickle)"),
        (zipped(**{"config.json": b"{}", "model.weights.h5": b""}), "Keras archive (zip)"),
        (zipped(**{"schema.json": b"{}"}), "skops archive (zip)"),
        (zipped(**{"arr_0.npy": npy()}), "npz archive"),
        (zipped(), "zip archive"),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "PyTorch file (pickle)"),
        (npy(), "npy"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (bytes(512) + b"\x89HDF\r\n\x1a\n", "HDF5"),
        (tarred(), "tar archive"),
        (gzip.compress(tarred()), "tar archive compressed with gzip"),
        (gzip.compress(pickle.dumps([1], 0)), "pickle compressed with gzip"),
        (gzip.compress(b"anything"), "gzip archive"),
        (bz2.compress(b"anything"), "bzip2 archive"),
        (lzma.compress(b"anything"), "xz archive"),
        (zlib.compress(b"anything"), "zlib archive"),
        (b"\x1f\x8bnot really", "gzip archive"),
        (b"\x7fELF\x02\x01", "ELF program"),
        (b"MZ\x90\x00", "Windows program"),
        (b"#!/bin/sh\nid\n", "script"),
        (b"\x08\x0a\x12\x04ORTM" + bytes(20), "ORT flatbuffer"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "safetensors"),
        (b"<?xml version='1.0'?><PMML/>", "XML or HTML"),
        (b'{"learner": {}}', "JSON"),
        (b"GGUF\x03", "GGUF"),
    ],
)
def test_detect_other_format(data: bytes, name: str) -> None:
    """Formats that are not served are refused by their names."""
    found = formats.detect(data)
    assert found is not None
    assert found.startswith(name)


def test_detect_onnx() -> None:
    """ONNX files pass, and so do bytes of no known format, which then have to parse."""
    assert formats.detect(testing.linear()) is None
    assert formats.detect(b"") is None
    assert formats.detect(b"hello") is None


def test_refuse_unserved_names_format() -> None:
    """The refusal has its reason and says pickle."""
    with pytest.raises(refusal.RefusedError, match="pickle") as caught:
        formats.refuse_unserved(pickle.dumps(Payload()))
    assert caught.value.reason == errors.Reason.EXECUTABLE_ARTIFACT


@given(st.binary(max_size=300))
def test_detect_any_bytes(data: bytes) -> None:
    """No bytes make the recognition fail."""
    formats.detect(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
@example([b"joblib"], 2)
def test_detect_any_pickle(value: object, protocol: int) -> None:
    """Whatever Python pickles is recognised as a pickle, of joblib's where it speaks of that."""
    assert formats.detect(pickle.dumps(value, protocol)) in ("pickle", "joblib (pickle)")
