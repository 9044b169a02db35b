"""Prepares the process for TensorFlow's CUDA build: its libraries, and the compiler that XLA runs."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from servable.loaders._cuda import (
    DRIVER,
    cuda_version,
    driver_problem,
    nvidia_directories,
    open_cuda_libraries,
)

_log = logging.getLogger(__name__)

_BUILD_INFO = "python/platform/build_info.py"

_LIBRARIES = (
    "cudart", "nvJitLink", "cublasLt", "cublas", "cufft", "cusparse", "cusolver", "cudnn",
)  # fmt: skip
"""Without one of them, TensorFlow uses no GPU."""

_DATA_DIRECTORY = "--xla_gpu_cuda_data_dir"


def prepare_gpus(directory: str) -> None:
    """Open the CUDA libraries that a TensorFlow uses, and log those that are missing.

    TensorFlow itself does not name them (tensorflow#66987). Has no effect for a build without CUDA, without a driver,
    or if `CUDA_VISIBLE_DEVICES` hides all GPUs.

    Args:
        directory: The directory of the `tensorflow` package, whose libraries are not open yet.
    """
    version = cuda_version(os.path.join(directory, _BUILD_INFO))
    if version is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return
    if (reason := driver_problem()) is not None:
        _log.info("TensorFlow uses no GPU: the driver's %s cannot be opened: %s", DRIVER, reason)
        return
    if problems := open_cuda_libraries(version, _LIBRARIES):
        _log.warning(
            "TensorFlow, built for CUDA %s, will use no GPU: %s. `pip install 'tensorflow[and-cuda]'` "
            "installs them",
            *(version, "; ".join(problems)),
        )
    for packages in nvidia_directories():
        _offer_compiler(Path(packages, "cuda_nvcc"))


def _offer_compiler(package: Path) -> None:
    """Name the directory with `ptxas` and `libdevice` in the environment, unless the user has named one."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    # Otherwise it is the name of a file with flags.
    are_flags = not flags or flags.startswith("--")
    is_one_word = len(str(package).split()) == 1
    if (
        (package / "nvvm" / "libdevice").is_dir()
        and are_flags
        and is_one_word
        and _DATA_DIRECTORY not in flags
    ):
        os.environ["XLA_FLAGS"] = f"{flags} {_DATA_DIRECTORY}={package}".strip()
    programs = package / "bin"
    if (programs / "ptxas").is_file() and shutil.which("ptxas") is None:
        path = os.environ.get("PATH")
        os.environ["PATH"] = os.pathsep.join([path, str(programs)] if path else [str(programs)])
