"""Loads TensorFlow SavedModels through the C API of the installed wheel."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servable._server.config.session_options import DEFAULT_SESSION_CONFIG
from servable._server.config.text_proto import parse_bytes
from servable._server.telemetry import ControlPlaneMetrics
from servable.errors import (
    Code,
    FailedPreconditionError,
    LoadError,
    NotFoundError,
    ServableError,
)
from servable.loaders._saved_model_files import (
    GRAPH,
    TEXT_GRAPH,
    NeededFiles,
    needed_files_of,
    read_needed_files,
)
from servable.loaders._size import size_of_files
from servable.loaders._tensorflow_runtime import TensorFlowRuntime
from servable.loaders._wire import CutOffError, ForwardFile
from servable.sources._model_files import explain_files

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable, TensorFlow

_RAM_PER_FILE_BYTE = 1.2
_ASSETS, _VARIABLES = "assets", "variables"
_INDEX = f"{_VARIABLES}/variables.index"
_MISSING_FILE = re.compile(
    r"No such file or directory|does not appear to contain a SavedModel"
    r"|Could not find SavedModel|matching files"
)
"""TensorFlow's text for a missing file; its code has many other meanings."""
_GLOB = re.compile(r"[*?\[\\]")
"""Characters that TensorFlow interprets as a pattern when it looks for the variables of a model."""
_SHARD = re.compile(rf"{_VARIABLES}/variables\.data-[0-9]+-of-([0-9]+)")


@dataclass(frozen=True, slots=True)
class SavedModelOptions:
    """Options for loading and running a SavedModel.

    Rust reads the fields by name; a test compares the two lists.

    Attributes:
        tags: The tag set of the meta graph to load, matched exactly (`--saved_model_tags`).
        session_config: A serialized `tensorflow.ConfigProto`; empty for the runtime's defaults.
        load_thread_pool: The pool in `session_config` that restores and initialises a model; `None` for the first.
        run_in_caller_thread: Run graphs in the calling thread, without the runtime's inter-op pool: several times less
            CPU for small graphs. `False` lets parallel branches of large graphs use the pool. Graphs that may loop or
            wait always use it, because only there a run can be cancelled.
        max_run_seconds: The longest run; 0 for no limit (`--max_run_seconds`).
    """

    tags: tuple[str, ...] = ("serve",)
    session_config: bytes = b""
    load_thread_pool: int | None = None
    run_in_caller_thread: bool = True
    max_run_seconds: float = 0.0


class SavedModelLoader:
    """Loads one version directory; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        path: str,
        runtime: TensorFlowRuntime,
        options: SavedModelOptions,
        metrics: ControlPlaneMetrics | None = None,
    ) -> None:
        """Describe the load; nothing is read yet.

        Args:
            path: The version directory, which contains `saved_model.pb`.
            runtime: The TensorFlow runtime.
            options: Options for loading and running it.
            metrics: Counts the loads.
        """
        self._path = path
        self._runtime = runtime
        self._options = options
        self._metrics = metrics or ControlPlaneMetrics()
        self._servable: Servable | None = None
        self._descriptor: int | None = None

    def estimate_resources(self) -> int:
        """The size of all files of the version, plus a fifth (docs/spec/lifecycle.md §5)."""
        return int(size_of_files(self._path) * _RAM_PER_FILE_BYTE)

    def load(self) -> None:
        """Load the graph, restore its variables and run its initialisation, at a low CPU priority.

        Missing operations are looked up in the installed packages.

        Raises:
            ServableError: TensorFlow cannot load it, or it must not be read.
        """
        self._require_permission()
        self._require_variables()
        try:
            self._load_with_operations()
        except ServableError as error:
            self._close_descriptor()
            if error.code is Code.NOT_FOUND and not _MISSING_FILE.search(error.message):
                # An operation, a tag, an attribute, a variable: no file that could still appear.
                raise LoadError(error.message, code=error.code, may_pass=False) from error
            if explanation := self._explanation(error):
                raise LoadError(f"{error.message}; {explanation}", code=error.code) from error
            raise

    def _explanation(self, error: ServableError) -> str:
        """An explanation of the files that are there in place of a SavedModel, if they are known."""
        if "SavedModel" not in error.message or {GRAPH, TEXT_GRAPH} & _names(self._path):
            return ""
        return explain_files(self._path, _names(self._path))

    def _load_with_operations(self) -> None:
        runtime = self._runtime.get()
        missing = ""
        while self._servable is None:
            try:
                self._servable = self._load(runtime)
            except NotFoundError as error:
                if error.message == missing:  # the loaded libraries do not have it
                    raise
                missing = error.message
                self._runtime.provide_missing_operation(error)
        self._runtime.log_gpus()

    def _require_permission(self) -> None:
        try:
            os.stat(os.path.join(self._path, "saved_model.pb"))
        except PermissionError as error:
            # TensorFlow would report a missing model.
            raise LoadError(
                f"{self._path} may not be read: {error.strerror}", code=Code.PERMISSION_DENIED
            ) from error
        except OSError:
            pass  # TensorFlow reports what is missing

    def _require_variables(self) -> None:
        """Refuse a graph without its variables, which TensorFlow would load, but whose requests would all fail."""
        if os.path.exists(os.path.join(self._path, _INDEX)):
            return
        try:
            needed = needed_files_of(self._path)
        except (OSError, CutOffError):
            return  # TensorFlow reports what is missing
        if needed is not None and needed.has_variables:
            raise LoadError(
                f"{self._path} has no {_INDEX}, from which its graph restores variables",
                code=Code.NOT_FOUND,
            )

    def _load(self, runtime: TensorFlow) -> Servable:
        # Threads that a load starts also run requests, so they must not inherit its low priority.
        in_background = not _has_threads_of_its_own(self._options.session_config)
        if in_background:
            runtime.start_threads(self._options)
        path = self._literal_path()
        try:
            with self._metrics.saved_model_load(self._path):
                return runtime.load_saved_model(path, self._options, in_background=in_background)
        except ServableError as error:
            if path == self._path:
                raise
            raise type(error)(error.message.replace(path, self._path), code=error.code) from error

    def _literal_path(self) -> str:
        """The path of the directory, or an equivalent one without pattern characters."""
        if not _GLOB.search(self._path):
            return self._path
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                return self._path  # TensorFlow reports what is missing
        return f"/proc/self/fd/{self._descriptor}"

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def unload(self) -> None:
        """Close the session, at a low CPU priority; its memory returns to the system."""
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.unload(in_background=True)
        self._close_descriptor()  # a graph may read its assets while it runs

    @property
    def servable(self) -> Servable:
        """The loaded model."""
        if self._servable is None:
            raise FailedPreconditionError(f"{self._path} is not loaded")
        return self._servable


def is_saved_model(path: str) -> bool:
    """Whether a directory contains all files of a SavedModel, as far as the graph and their names show."""
    files = _names(path)
    for directory in {_VARIABLES, _ASSETS} & files:
        files |= {f"{directory}/{name}" for name in _names(os.path.join(path, directory))}
    return _has_all_files(files, lambda _: needed_files_of(path))


def has_saved_model_files(
    files: Collection[str], open_file: Callable[[str], ForwardFile] | None = None
) -> bool:
    """Whether files with these paths, relative to a directory and with `/`, are a complete SavedModel.

    Args:
        files: The paths.
        open_file: Opens one of them; without it only names count.
    """

    def read(name: str) -> NeededFiles | None:
        return None if open_file is None else read_needed_files(name, open_file(name))

    return _has_all_files(files, read)


def _has_all_files(
    files: Collection[str], read_needed: Callable[[str], NeededFiles | None]
) -> bool:
    graph = next((name for name in (GRAPH, TEXT_GRAPH) if name in files), None)
    if graph is None:
        return False
    has_index = _INDEX in files
    shards = [match for file in files if (match := _SHARD.fullmatch(file))]
    # The name of each shard contains their number; the index is written after them.
    wanted = max((int(shard[1]) for shard in shards), default=0)
    if has_index != bool(shards) or len(shards) < wanted:
        return False
    try:
        needed = read_needed(graph)
    except CutOffError:
        return False
    except (OSError, ServableError):
        return True  # the load reports what is wrong
    if needed is None:
        return True
    return (has_index or not needed.has_variables) and all(
        f"{_ASSETS}/{name}" in files for name in needed.assets
    )


def _names(directory: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()


def _has_threads_of_its_own(session_config: bytes) -> bool:
    """Whether each session starts threads for its runs."""
    if session_config in (b"", DEFAULT_SESSION_CONFIG):  # without an import of protobuf
        return False
    config: Any = parse_bytes(session_config, "tensorflow.ConfigProto")
    return bool(config.use_per_session_threads or config.session_inter_op_thread_pool)
