"""Small shared objects, named like the CUDA libraries of NVIDIA's packages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def compile_library(path: Path, value: int = 0, needs: Sequence[Path] = ()) -> Path:
    """Compile a library that is known by the name of its file, and has no run path.

    Args:
        path: The file to write.
        value: What its only function returns; the function is called like the library, such as `cublas`.
        needs: Libraries that it depends on.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no compiler cc")
    function = path.name.removeprefix("lib").partition(".")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-Wl,--no-as-needed"),
            *("-x", "c", "-", "-o", str(path), "-x", "none", *map(str, needs)),
        ],
        input=f"int {function}(void) {{ return {value}; }}",
        text=True,
        check=True,
    )
    return path
