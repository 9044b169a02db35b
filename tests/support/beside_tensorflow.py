"""Runs TensorFlow and LiteRT in one process: `beside_tensorflow.py FIRST SAVED_MODEL TFLITE`.

FIRST is the runtime to open first. Extensions that use OpenSSL are imported last.
"""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from servable._server.border.gateway import LiteRt, Servable
from servable.loaders._litert import LiteRtOptions
from servable.loaders._saved_model import SavedModelLoader, SavedModelOptions
from servable.loaders._tensorflow_runtime import TensorFlowRuntime


def open_tensorflow(path: str) -> Servable:
    loader = SavedModelLoader(path, TensorFlowRuntime(), SavedModelOptions())
    loader.load()
    return loader.servable


def open_litert(path: str) -> Servable:
    spec = importlib.util.find_spec("ai_edge_litert")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    library = Path(spec.submodule_search_locations[0]) / "libLiteRt.so"
    return LiteRt(str(library)).load_model(path, LiteRtOptions(interpreters=2))


def main(first: str, saved_model: str, tflite: str) -> None:
    """Open both, and run both from several threads."""
    if first == "tensorflow":
        servables = [open_tensorflow(saved_model), open_litert(tflite)]
    else:
        servables = [open_litert(tflite), open_tensorflow(saved_model)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda each: each.warm_up_with_zeros(300), servables * 2))
    assert all(result["serving_default"] is None for result in results), results
    import hmac
    import ssl

    hmac.new(b"key", b"message", "sha256").digest()
    ssl.create_default_context()
    for servable in servables:
        servable.unload()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
