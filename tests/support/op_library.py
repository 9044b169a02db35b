"""A library with an operation that TensorFlow lacks, and a model that needs it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCES = Path(__file__).resolve().parents[1] / "testdata"
_REPLACED = b"GatherV2"


def compile_op_library(operation: str, target: Path) -> None:
    """Compile a library that registers the operation; skips the test without a compiler.

    Args:
        operation: Its name, as long as `GatherV2`.
        target: The path of the library.
    """
    _compile("cc", _SOURCES / "op_library.c", operation, target)


def compile_op_library_with_absl(operation: str, target: Path) -> None:
    """Compile a library in C++ that includes a copy of absl and reads attributes; takes several seconds of CPU time.

    Args:
        operation: Its name, as long as `GatherV2`.
        target: The path of the library.
    """
    include = _tensorflow() / "include"
    options = ("-std=c++17", "-w", "-D_GLIBCXX_USE_CXX11_ABI=1", "-DEIGEN_MAX_ALIGN_BYTES=64")
    _compile("c++", _SOURCES / "op_library.cc", operation, target, f"-I{include}", *options)


def _tensorflow() -> Path:
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _compile(program: str, source: Path, operation: str, target: Path, *options: str) -> None:
    compiler = shutil.which(program)
    if compiler is None:
        pytest.skip(f"there is no compiler {program}")
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", f'-DOP_NAME="{operation}"', *options),
            *(str(source), "-o", str(target)),
            *(f"-L{_tensorflow()}", "-l:libtensorflow_framework.so.2"),
        ],
        check=True,
    )


def model_that_needs(operation: str, failing: Path, target: Path) -> Path:
    """Write a model whose graph has the operation in place of `GatherV2`.

    Args:
        operation: Its name, of the same length.
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
