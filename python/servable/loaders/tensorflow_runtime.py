"""Finds the installed TensorFlow wheel and opens its runtime, without importing TensorFlow.

`import tensorflow` takes seconds and hundreds of megabytes that a server has no use for; the
libraries inside the wheel are all it needs.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from servable.errors import Code, LoadError

if TYPE_CHECKING:
    from servable.gateway import TensorFlow

_INSTALL = "install it with `pip install tensorflow-cpu`, or `pip install tensorflow` for GPUs"
_NOT_INSTALLED = f"TensorFlow is not installed; {_INSTALL}"


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
    # Only here is the extension needed; everything above works, and is tested, without it.
    from servable.gateway import TensorFlow

    # Read by the runtime's libraries when they are opened. Their INFO lines tell an operator
    # nothing that our own do not.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    return TensorFlow(directory)


class TensorFlowRuntime:
    """The one TensorFlow runtime of a server, opened when the first model asks for it.

    Safe to use from several threads.
    """

    def __init__(
        self,
        find: Callable[[], str | None] = find_tensorflow,
        open_runtime: Callable[[str], TensorFlow] = _open,
    ) -> None:
        """Prepare a runtime; nothing is opened yet."""
        self._find = find
        self._open = open_runtime
        self._lock = threading.Lock()
        self._runtime: TensorFlow | None = None

    def require_installed(self) -> None:
        """Find out early, without opening anything, whether models can be loaded at all.

        Raises:
            LoadError: TensorFlow is not installed.
        """
        if self._find() is None:
            raise LoadError(_NOT_INSTALLED, code=Code.FAILED_PRECONDITION)

    def get(self) -> TensorFlow:
        """The open runtime.

        Raises:
            LoadError: TensorFlow is not installed, or its libraries do not fit; tried again at the
                next call.
        """
        with self._lock:
            if self._runtime is None:
                directory = self._find()
                if directory is None:
                    raise LoadError(_NOT_INSTALLED, code=Code.FAILED_PRECONDITION)
                try:
                    self._runtime = self._open(directory)
                except LoadError as error:
                    raise LoadError(
                        f"The TensorFlow in {directory} cannot be used: {error.message}; {_INSTALL}",
                        code=Code.FAILED_PRECONDITION,
                    ) from error
            return self._runtime
