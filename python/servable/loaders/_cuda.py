"""Opens the CUDA libraries of NVIDIA's packages before a runtime asks for them by name.

The dynamic linker finds a library by its name once it is open. The runtime then needs neither `LD_LIBRARY_PATH` nor a
run path to the packages, and a missing library is reported with its package.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

DRIVER = "libcuda.so.1"
"""The library of NVIDIA's driver, which is installed with the machine."""

_ORDER = (
    "cudart", "nvJitLink", "nvrtc", "cublasLt", "cublas", "cufft", "curand", "cusparse", "cusolver",
    "cudnn",
)  # fmt: skip
"""Each after those that it needs. Other libraries stay closed: `libnvblas` would replace the BLAS of the process."""

_OWN_VERSIONS: Mapping[int, Mapping[str, int]] = {
    12: {"cufft": 11, "curand": 10, "cusolver": 11, "cudnn": 9},
    13: {"cufft": 12, "curand": 10, "cusparse": 12, "cusolver": 12, "cudnn": 9},
}
"""By version of CUDA: the versions of libraries that differ from it."""

_PACKAGES = {
    "cudart": "cuda-runtime",
    "nvJitLink": "nvjitlink",
    "nvrtc": "cuda-nvrtc",
    "cublasLt": "cublas",
}
"""The packages whose names differ from their libraries."""

_VERSIONED_PACKAGES = {12: _ORDER, 13: ("cudnn",)}
"""By version of CUDA: the libraries whose packages have it in their names, such as `nvidia-cudnn-cu13`."""

_NOT_FOUND = "cannot open shared object file"
"""What the dynamic linker says of a library itself, after its name. Of a dependency it says the name first."""

_MAX_INFO_BYTES = 1 << 16


def driver_problem() -> str | None:
    """The reason why the driver cannot be opened; `None` if it can. Opening it initialises no GPU."""
    return _open(DRIVER)


def cuda_version(info_file: str) -> int | None:
    """The major version of CUDA that a package was built for.

    Args:
        info_file: The generated module of the package that describes its build. It is read, not imported.

    Returns:
        `None` if the package was built without CUDA, or does not say so.
    """
    try:
        with open(info_file, encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_INFO_BYTES)
    except OSError:
        return None
    found = re.search(r"""cuda_version['"]?\s*[=,:]\s*['"]([0-9]{1,3})\b""", text)
    return int(found[1]) if found else None


def open_cuda_libraries(
    version: int, parts: Collection[str], directories: Sequence[str] | None = None
) -> Sequence[str]:
    """Open libraries of the installed packages, or else of the dynamic linker's path, for the life of the process.

    They are opened in local scope, as runtimes do it themselves. Opening them twice is cheap.

    Args:
        version: The major version of CUDA. Nothing is opened for a version that is not known.
        parts: The libraries, such as `cublas` for `libcublas.so.12`.
        directories: The directories of the package `nvidia`; by default those of the installed packages.

    Returns:
        For each library that cannot be opened: its name, its package, and the reason.
    """
    if version not in _OWN_VERSIONS:
        return ()
    installed = _installed(nvidia_directories() if directories is None else directories)
    problems = []
    for part in (part for part in _ORDER if part in parts):
        name = f"lib{part}.so.{_OWN_VERSIONS[version].get(part, version)}"
        paths = [path for path in installed.get(part, ()) if path.name == name]
        # Libraries of several versions of CUDA may have the same name.
        paths.sort(key=lambda path: (_is_of_13(path) != (version == 13), path))
        reason = _open(str(paths[0]) if paths else name)
        if reason is None:
            continue
        package = _package(part, version)
        if paths or not reason.startswith(_NOT_FOUND):
            problem = f"{name} of the package {package} cannot be opened: {reason}"
        else:
            problem = f"{name} of the package {package} is missing"
            if others := sorted({path.name for path in installed.get(part, ())}):
                problem += f" (found {', '.join(others)})"
        problems.append(problem)
    return problems


def nvidia_directories() -> Sequence[str]:
    """The directories of the package `nvidia`, in which all packages of NVIDIA put their libraries."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return ()
    return tuple(spec.submodule_search_locations or ()) if spec else ()


def _installed(directories: Sequence[str]) -> Mapping[str, Sequence[Path]]:
    """The files of libraries, by part."""
    found: dict[str, list[Path]] = {}
    for path in _files(directories):
        part = path.name.removeprefix("lib").partition(".so.")[0]
        found.setdefault(part, []).append(path)
    return found


def _files(directories: Sequence[str]) -> Iterator[Path]:
    for directory in directories:
        yield from sorted(Path(directory).glob("*/lib/lib*.so.*"))


def _is_of_13(path: Path) -> bool:
    return path.parent.parent.name == "cu13"


def _package(part: str, version: int) -> str:
    suffix = f"-cu{version}" if part in _VERSIONED_PACKAGES[version] else ""
    return f"nvidia-{_PACKAGES.get(part, part)}{suffix}"


def _open(library: str) -> str | None:
    """Open a library, which stays open. Returns the reason of the dynamic linker if it cannot."""
    import ctypes  # only where there may be a GPU

    try:
        ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        return str(error).removeprefix(f"{library}: ")
    return None
