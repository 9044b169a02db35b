"""A library of an operation that TensorFlow does not have, and a model that needs it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).resolve().parents[1] / "testdata/op_library.c"
_REPLACED = b"GatherV2"


def compile_op_library(operation: str, target: Path) -> None:
    """Compile a library that registers the operation; skips the test where there is no compiler.

    Args:
        operation: Its name, as long as `GatherV2`.
        target: Where to write the library.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None
    assert spec.submodule_search_locations
    tensorflow = Path(spec.submodule_search_locations[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", f'-DOP_NAME="{operation}"'),
            *(
                str(_SOURCE),
                "-o",
                str(target),
                f"-L{tensorflow}",
                "-l:libtensorflow_framework.so.2",
            ),
        ],
        check=True,
    )


def model_that_needs(operation: str, failing: Path, target: Path) -> Path:
    """Write a model whose graph has the operation in the place of `GatherV2`.

    Args:
        operation: Its name, as long as that.
        failing: The base path of the model `failing`.
        target: The base path to write.
    """
    assert len(operation) == len(_REPLACED)
    shutil.copytree(failing, target)
    graph = target / "1/saved_model.pb"
    data = graph.read_bytes()
    assert _REPLACED in data
    graph.write_bytes(data.replace(_REPLACED, operation.encode()))
    return target
