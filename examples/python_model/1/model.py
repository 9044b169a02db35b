"""Scores texts by the words in them: two signatures, strings in, numbers out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servable.errors import InvalidInputError
from servable.signature import Signature, TensorSpec

TEXTS = {"text": TensorSpec("string", [None])}


class Model:
    """Counts good and bad words, which are in a file beside the code."""

    signatures = {
        "serving_default": Signature(TEXTS, {"score": TensorSpec("float32", [None])}),
        "words": Signature(TEXTS, {"words": TensorSpec("int64", [None])}),
    }

    def __init__(self, directory: Path) -> None:
        """Load what the model needs; called once for each version."""
        self._weights = json.loads((directory / "weights.json").read_text())

    def run(self, inputs: Mapping[str, Any], *, signature_name: str) -> dict[str, Any]:
        """Run one batch; called from several threads at once."""
        texts = [text.decode().lower().split() for text in inputs["text"]]
        if signature_name == "words":
            return {"words": np.array([len(words) for words in texts], np.int64)}
        if not all(texts):
            raise InvalidInputError("a text without words has no score")
        scores = [sum(self._weights.get(word, 0) for word in words) / len(words) for words in texts]
        return {"score": np.array(scores, np.float32)}
