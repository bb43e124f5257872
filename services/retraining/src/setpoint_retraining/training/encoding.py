"""From columns to the float32 matrix that estimators see, in Python and, the same, in ONNX.

Numbers come first, then one column of codes for each text column: the place of the value among the
levels of training, NaN for a value that training never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper

NUMBERS = "numbers"
TEXTS = "texts"
PROBABILITIES = "probabilities"
_FEATURES = "features"
_ENCODED = "encoded"
OPERATORS = 18
LEARNING_OPERATORS = 3
"""Versions of the operator sets: the oldest with a label encoder from text to float and a default."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What was learnt about the inputs: their names, and the levels of the text columns."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]

    @classmethod
    def learn(
        cls,
        numbers: Sequence[str],
        texts: Mapping[str, Sequence[str | None]],
    ) -> Encoding:
        """Learns the levels of each text column, in order of the text."""
        levels = [tuple(sorted({value for value in column if value})) for column in texts.values()]
        return cls(tuple(numbers), tuple(texts), tuple(levels))

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return len(self.numbers) + len(self.texts)

    def matrix(
        self,
        numbers: Sequence[npt.NDArray[np.floating[Any]]],
        texts: Sequence[Sequence[str | None]],
        rows: int,
    ) -> npt.NDArray[np.float32]:
        """Encodes columns, given in the encoding's order. Shape [rows, width]."""
        matrix = np.empty((rows, self.width), dtype=np.float32)
        for place, values in enumerate(numbers):
            matrix[:, place] = values
        for place, (column, levels) in enumerate(zip(texts, self.levels, strict=True)):
            codes = {level: float(code) for code, level in enumerate(levels)}
            encoded = [codes.get(value, np.nan) if value else np.nan for value in column]
            matrix[:, len(self.numbers) + place] = encoded
        return matrix


def to_onnx(estimator: Any, encoding: Encoding) -> bytes:
    """Converts a fitted classifier with its encoding to one ONNX model.

    The model's inputs are ``numbers`` [rows, numbers] float32 and ``texts`` [rows, texts] string,
    either left out when there are none; its output is ``probabilities`` [rows, 2] float32.
    """
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    converted = skl2onnx.to_onnx(
        estimator,
        initial_types=[(_FEATURES, FloatTensorType([None, encoding.width]))],
        options={id(estimator): {"zipmap": False}},
        target_opset={"": OPERATORS, "ai.onnx.ml": LEARNING_OPERATORS},
    )
    del converted.opset_import[:]
    converted.opset_import.extend(_operator_sets())
    model = compose.merge_models(
        _encoder(encoding, converted.ir_version),
        converted,
        io_map=[(_ENCODED, _FEATURES)],
        outputs=[PROBABILITIES],
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _operator_sets() -> list[onnx.OperatorSetIdProto]:
    return [
        helper.make_opsetid("", OPERATORS),
        helper.make_opsetid("ai.onnx.ml", LEARNING_OPERATORS),
    ]


def _encoder(encoding: Encoding, ir_version: int) -> onnx.ModelProto:
    inputs, parts, nodes, constants = [], [], [], []
    if encoding.numbers:
        shape = [None, len(encoding.numbers)]
        inputs.append(helper.make_tensor_value_info(NUMBERS, TensorProto.FLOAT, shape))
        parts.append(NUMBERS)
    if encoding.texts:
        shape = [None, len(encoding.texts)]
        inputs.append(helper.make_tensor_value_info(TEXTS, TensorProto.STRING, shape))
    for place, levels in enumerate(encoding.levels):
        index = helper.make_tensor(f"place_{place}", TensorProto.INT64, [1], [place])
        constants.append(index)
        nodes.append(helper.make_node("Gather", [TEXTS, index.name], [f"text_{place}"], axis=1))
        nodes.append(_codes(place, levels))
        parts.append(f"code_{place}")
    nodes.append(helper.make_node("Concat", parts, [_ENCODED], axis=1))
    output = helper.make_tensor_value_info(_ENCODED, TensorProto.FLOAT, [None, encoding.width])
    graph = helper.make_graph(nodes, "encoding", inputs, [output], initializer=constants)
    return helper.make_model(graph, opset_imports=_operator_sets(), ir_version=ir_version)


def _codes(place: int, levels: Sequence[str]) -> onnx.NodeProto:
    # An encoder without keys is malformed; a column that was always null gets a key that no text has.
    keys = list(levels) or ["\x00"]
    values = [float(code) for code in range(len(levels))] or [float("nan")]
    return helper.make_node(
        "LabelEncoder",
        [f"text_{place}"],
        [f"code_{place}"],
        domain="ai.onnx.ml",
        keys_strings=keys,
        values_floats=values,
        default_float=float("nan"),
    )
