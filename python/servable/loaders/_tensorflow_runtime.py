"""Finds the installed TensorFlow wheel and opens its runtime, without importing TensorFlow.

`import tensorflow` takes seconds and hundreds of megabytes that a server does not need; the libraries inside the wheel
suffice.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from servable.errors import Code, ConfigError, LoadError, ServableError
from servable.loaders._op_libraries import OpPackages
from servable.loaders._tensorflow_gpus import prepare_gpus

if TYPE_CHECKING:
    from servable._server.border.gateway import TensorFlow

_log = logging.getLogger(__name__)

_INSTALL = (
    "install it with `pip install tensorflow-cpu`, or `pip install 'tensorflow[and-cuda]'` for GPUs"
)
_NOT_INSTALLED = f"TensorFlow is not installed; {_INSTALL}"

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def find_tensorflow() -> str | None:
    """The directory of the installed `tensorflow` package, or `None`; imports nothing."""
    try:
        spec = importlib.util.find_spec("tensorflow")
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(spec.submodule_search_locations))


def _open(directory: str) -> TensorFlow:
    # Only this needs the extension; everything above works, and is tested, without it.
    from servable._server.border.gateway import TensorFlow

    prepare_gpus(directory)
    # The runtime's libraries read it when they are opened. Their INFO lines add nothing to ours. Child processes must
    # not inherit it.
    is_chosen = _LOG_LEVEL in os.environ
    os.environ.setdefault(_LOG_LEVEL, "1")
    try:
        return TensorFlow(directory)
    finally:
        if not is_chosen:
            del os.environ[_LOG_LEVEL]


class TensorFlowRuntime:
    """The only TensorFlow runtime of a server, opened when the first model needs it.

    Safe to use from several threads.
    """

    def __init__(
        self,
        find: Callable[[], str | None] = find_tensorflow,
        open_runtime: Callable[[str], TensorFlow] = _open,
        op_libraries: Sequence[str] = (),
        op_packages: OpPackages | None = None,
    ) -> None:
        """Prepare a runtime; nothing is opened yet.

        Args:
            find: Finds the directory of TensorFlow.
            open_runtime: Opens it.
            op_libraries: Libraries with further operations, loaded when it is opened.
            op_packages: Finds further libraries when a model needs them.
        """
        self._find = find
        self._open = open_runtime
        self._op_libraries = op_libraries
        self._op_packages = op_packages or OpPackages()
        self._lock = threading.Lock()
        self._runtime: TensorFlow | None = None
        self._has_logged_gpus = False

    def require_installed(self) -> None:
        """Check, without opening anything, whether models can be loaded at all.

        Raises:
            LoadError: TensorFlow is not installed.
        """
        if self._find() is None:
            raise LoadError(_NOT_INSTALLED, code=Code.FAILED_PRECONDITION)

    def version(self) -> str | None:
        """The version of the runtime, once it is open."""
        runtime = self._runtime
        return None if runtime is None else runtime.version

    def devices(self) -> list[tuple[str, str, int | None]]:
        """Name, type and memory limit in bytes of each device; empty until the first load."""
        runtime = self._runtime
        return [] if runtime is None else runtime.devices()

    def log_gpus(self) -> None:
        """Log the GPUs that TensorFlow uses, once there is a first model."""
        with self._lock:
            if self._has_logged_gpus:
                return
            self._has_logged_gpus = True
        for name, kind, limit in self.devices():
            if kind == "GPU":
                _log.info("TensorFlow uses %s, and up to %s bytes of its memory", name, limit)

    def get(self) -> TensorFlow:
        """The open runtime.

        Raises:
            LoadError: TensorFlow is not installed, or its libraries do not fit; retried at the next call.
            ConfigError: A library with further operations does not fit.
        """
        with self._lock:
            if self._runtime is None:
                directory = self._find()
                if directory is None:
                    raise LoadError(_NOT_INSTALLED, code=Code.FAILED_PRECONDITION)
                try:
                    runtime = self._open(directory)
                except LoadError as error:
                    raise LoadError(
                        f"The TensorFlow in {directory} cannot be used: {error.message}; {_INSTALL}",
                        code=Code.FAILED_PRECONDITION,
                    ) from error
                self._load_op_libraries(runtime)
                self._runtime = runtime
            return self._runtime

    def provide_missing_operation(self, error: ServableError) -> None:
        """Load the library with the operation that a load lacked; the load may then be retried.

        Raises:
            ServableError: Nothing could be loaded: the given error, with the package to install if it is known.
        """
        self._op_packages.provide(self.get(), error)

    def _load_op_libraries(self, runtime: TensorFlow) -> None:
        for library in self._op_libraries:
            try:
                runtime.load_library(library)
            except ServableError as error:
                raise ConfigError(
                    f"The library of operations {library} cannot be loaded into TensorFlow "
                    f"{runtime.version}: {error.message}",
                    code=error.code,
                ) from error
