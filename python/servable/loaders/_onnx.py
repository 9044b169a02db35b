"""Finds the installed ONNX Runtime and loads models with it, without importing it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servable.errors import Code, LoadError, ServableError
from servable.loaders._cuda import DRIVER, cuda_version, driver_problem, open_cuda_libraries
from servable.loaders._wheels import WheelRuntime

if TYPE_CHECKING:
    from servable._server.border.gateway import OnnxRuntime

_LIBRARIES = ("capi/libonnxruntime.so*", "capi/libonnxruntime*.dylib")

_log = logging.getLogger(__name__)

_BUILD_INFO = "build_and_package_info.py"
"""Beside the library."""
_CUDA_LIBRARIES = (
    "cudart", "nvJitLink", "nvrtc", "cublasLt", "cublas", "cufft", "curand", "cudnn",
)  # fmt: skip

_NOT_OPENED = "Failed to load library"
"""What ONNX Runtime says of its library for GPUs if one of these is missing."""

_OPTIMIZATIONS = ("none", "basic", "extended", "all")
_PROVIDER = re.compile(r"cpu|cuda(:[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """Options for loading and running an ONNX model.

    Rust reads the fields by name; a test compares the two lists.

    Attributes:
        intra_op_threads: The threads that share the operations of one run. 1 is the calling thread: requests then run
            in parallel, each on one CPU. A larger number gives the model a pool of so many threads. 0 is the pool that
            all such models share, with one thread for each CPU.
        providers: The devices to run on, the preferred first: `cpu`, `cuda`, or `cuda:1` for the second GPU. The CPU
            runs whatever the others cannot.
        gpu_memory_limit_bytes: The maximum memory of the model on each GPU; 0 for no limit.
        graph_optimization: How the graph is optimised at load: `none`, `basic`, `extended` or `all`.
        memory_arena: Whether memory of a run is kept for the next one. `False` returns it to the system, and costs
            time in each run.
    """

    intra_op_threads: int = 1
    providers: tuple[str, ...] = ("cpu",)
    gpu_memory_limit_bytes: int = 0
    graph_optimization: str = "all"
    memory_arena: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.intra_op_threads <= 1024:
            raise ValueError(
                f'option "intra_op_threads": got {self.intra_op_threads}, want 0 to 1024'
            )
        if not self.providers:
            raise ValueError('option "providers": got none, want at least one, such as cpu')
        for name in self.providers:
            if not _PROVIDER.fullmatch(name):
                raise ValueError(f'option "providers": got "{name}", want cpu, cuda or cuda:1')
        if not 0 <= self.gpu_memory_limit_bytes < 2**63:
            raise ValueError(
                f'option "gpu_memory_limit_bytes": got {self.gpu_memory_limit_bytes}, '
                "want a number of bytes"
            )
        if self.graph_optimization not in _OPTIMIZATIONS:
            raise ValueError(
                f'option "graph_optimization": got "{self.graph_optimization}", '
                f"want one of {', '.join(_OPTIMIZATIONS)}"
            )


def onnx_runtime() -> WheelRuntime[OnnxRuntime]:
    """The runtime of a server; nothing is opened yet."""
    return WheelRuntime("ONNX Runtime", "onnxruntime", _LIBRARIES, "onnx", _open)


@contextmanager
def cuda_libraries(runtime: WheelRuntime[OnnxRuntime], options: OnnxOptions) -> Iterator[None]:
    """Open the CUDA libraries that ONNX Runtime uses, if the options name a GPU; the load runs inside the `with` block.

    Missing libraries are added to the error that they cause, or logged: some models do not need them all.

    Raises:
        LoadError: There is no driver.
    """
    if not any(provider.startswith("cuda") for provider in options.providers):
        yield
        return
    version = cuda_version(os.path.join(os.path.dirname(runtime.find()), _BUILD_INFO))
    if version is None:  # the runtime reports it
        yield
        return
    if (reason := driver_problem()) is not None:
        raise LoadError(
            f'provider "cuda" cannot be used: the driver\'s {DRIVER} cannot be opened: {reason}; '
            "install the driver of the GPU, or pass it to the container",
            code=Code.FAILED_PRECONDITION,
        )
    problems = "; ".join(open_cuda_libraries(version, _CUDA_LIBRARIES))
    try:
        yield
    except ServableError as error:
        if not problems or _NOT_OPENED not in error.message:
            raise
        raise LoadError(f"{error.message}; {problems}", code=error.code) from error
    if problems:
        _log.warning("Runs on the GPU may fail with operations that need them: %s", problems)


def _open(library: str) -> OnnxRuntime:
    # Only this needs the extension; everything above works, and is tested, without it.
    from servable._server.border.gateway import OnnxRuntime

    return OnnxRuntime(library)
