"""Returns its input, in one signature for each dtype, and keeps the last input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servable.signature import DATA_TYPES, Signature, TensorSpec


class Model:
    signatures = {
        **{
            name: Signature({"x": TensorSpec(name)}, {"y": TensorSpec(name)}) for name in DATA_TYPES
        },
        "matrix": Signature(
            {"x": TensorSpec("float32", [None, 3])},
            {"sum": TensorSpec("float32", [None]), "transposed": TensorSpec("float32", [3, None])},
        ),
        "about": Signature(
            {"x": TensorSpec("float32")},
            {
                "name": TensorSpec("string", []),
                "directory": TensorSpec("string", []),
                "is_writeable": TensorSpec("bool", []),
                "before": TensorSpec("float32"),
                "deadline": TensorSpec("float64", []),
            },
        ),
    }

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: Any = [-1.0]

    def run(
        self, inputs: Mapping[str, Any], *, signature_name: str, deadline: float
    ) -> dict[str, Any]:
        import numpy as np

        x = inputs["x"]
        if signature_name == "matrix":
            return {"sum": x.sum(axis=1), "transposed": x.T}
        if signature_name == "about":
            before, self._kept = np.float32(self._kept), x
            return {
                "name": signature_name,
                "directory": str(self._directory),
                "is_writeable": x.flags.writeable,
                "before": before,
                "deadline": deadline,
            }
        return {"y": x}
