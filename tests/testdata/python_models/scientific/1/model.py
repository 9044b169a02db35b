"""Needs OpenSSL, LAPACK and OpenMP, from the standard library and from large packages."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import xgboost

from servable.signature import Signature, TensorSpec


class Model:
    signatures = {
        "serving_default": Signature(
            {"x": TensorSpec("float32", [None])}, {"y": TensorSpec("float32", [None])}
        )
    }

    def __init__(self, directory: Path) -> None:
        del directory

    def run(
        self, inputs: Mapping[str, Any], *, signature_name: str, deadline: float
    ) -> dict[str, Any]:
        ssl.create_default_context()
        hmac.digest(b"key", b"text", "sha256")
        scipy.linalg.inv(np.eye(3))
        data = xgboost.DMatrix(np.eye(4), label=np.arange(4))
        xgboost.train({"nthread": 1}, data, 1)
        return {"y": inputs["x"] + 1}
