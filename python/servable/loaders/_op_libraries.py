"""Finds libraries with operations that TensorFlow itself lacks.

A graph may use operations of packages such as `tensorflow-text`, which register them on import. Here nothing is
imported. The name of the missing operation identifies the package, and the package's libraries are loaded into the
runtime. If the package is not installed, the error names it.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from servable._server.config.ownership import (
    WritableByOthersError,
    is_installed,
    require_private_tree,
)
from servable.errors import LoadError, ServableError

if TYPE_CHECKING:
    from servable._server.border.gateway import TensorFlow

_log = logging.getLogger(__name__)

_MISSING = re.compile(r"Op type not registered '([^']+)'")


@dataclass(frozen=True, slots=True)
class OpPackage:
    """A package with operations.

    Attributes:
        distribution: The name for `pip`.
        module: The name for `import`.
        libraries: Its libraries, as patterns relative to its directory.
        prefixes: The prefixes of its operations' names.
        operations: Names of its operations without such a prefix.
        follows_tensorflow: Whether its version numbers are those of the matching TensorFlow.
    """

    distribution: str
    module: str
    libraries: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    operations: frozenset[str] = frozenset()
    follows_tensorflow: bool = False

    def has(self, operation: str) -> bool:
        """Whether an operation belongs to the package."""
        return operation.startswith(self.prefixes) or operation in self.operations


_TEXT_OPERATIONS = frozenset(
    """
    CaseFoldUTF8 ConstrainedSequence FastBertNormalize FastWordpieceTokenizeWithOffsets
    FindSourceOffsets MaxSpanningTree NormalizeUTF8 NormalizeUTF8WithOffsetsMap PhraseTokenize
    RegexSplitWithOffsets RougeL SentenceFragments SentenceFragmentsV2 SentencepieceDetokenizeOp
    SentencepieceIdToStringOp SentencepieceOp SentencepieceStringToIdOp SentencepieceTokenizeOp
    SentencepieceTokenizeWithOffsetsOp SentencepieceVocabSizeOp SplitMergeTokenizeWithOffsets
    TokenizerFromLogits UnicodeScriptTokenizeWithOffsets WhitespaceTokenizeWithOffsets
    WordpieceTokenizeWithOffsets
    """.split()
)

PACKAGES = (
    OpPackage(
        "tensorflow-text",
        "tensorflow_text",
        ("python/ops/_*.so", "python/metrics/_*.so"),
        ("TFText>",),
        _TEXT_OPERATIONS,
        follows_tensorflow=True,
    ),
    OpPackage(
        "tensorflow-decision-forests",
        "tensorflow_decision_forests",
        ("tensorflow/ops/inference/*.so", "tensorflow/ops/training/*.so"),
        ("SimpleML",),
    ),
    OpPackage("tensorflow-addons", "tensorflow_addons", ("custom_ops/*/_*.so",), ("Addons>",)),
    OpPackage("tensorflow-io", "tensorflow_io", ("python/ops/libtensorflow_io.so",), ("IO>",)),
)
"""The known packages; others require `--op_libraries`."""


def find_package(module: str) -> Path | None:
    """The directory of an installed package, or `None`; imports nothing."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = next(iter(spec.submodule_search_locations))
    try:
        return Path(directory if is_installed(directory) else require_private_tree(directory))
    except WritableByOthersError as error:
        # An untrusted graph must not load native code that other users may write.
        _log.warning("The package %s is left alone: %s", module, error)
        return None


class OpPackages:
    """Loads the libraries of packages, each at most once. Safe to use from several threads."""

    def __init__(
        self,
        packages: tuple[OpPackage, ...] = PACKAGES,
        find: Callable[[str], Path | None] = find_package,
    ) -> None:
        """Start without loaded libraries."""
        self._packages = packages
        self._find = find
        self._lock = threading.Lock()
        # By distribution: why it cannot be used; empty if it was loaded.
        self._problems: dict[str, str] = {}

    def provide(self, runtime: TensorFlow, error: ServableError) -> None:
        """Load the libraries of the package with the operation that an error names.

        Args:
            runtime: The runtime to load them into.
            error: Why a model could not be loaded.

        Raises:
            ServableError: The given error if it names no operation; otherwise a `LoadError` that adds the remedy.
        """
        missing = _MISSING.search(error.message)
        if missing is None:
            raise error
        operation = missing[1]
        package = next((p for p in self._packages if p.has(operation)), None)
        if package is None:
            raise _explained(
                error, f"{operation} is no operation of TensorFlow {runtime.version} or of a "
                "package that is known; name the library that has it with --op_libraries",
            )  # fmt: skip
        directory = self._find(package.module)
        if directory is None:
            raise _explained(
                error, f"{operation} is an operation of {package.distribution}, which is not "
                f"installed: pip install {_requirement(package, runtime)}",
            )  # fmt: skip
        with self._lock:
            if package.distribution not in self._problems:
                self._problems[package.distribution] = _load(runtime, package, directory)
            problem = self._problems[package.distribution]
        if problem:
            raise _explained(
                error, f"{operation} is an operation of {package.distribution}, but what is "
                f"installed in {directory} does not fit TensorFlow {runtime.version} ({problem}): "
                f"pip install {_requirement(package, runtime)}",
            )  # fmt: skip


def _load(runtime: TensorFlow, package: OpPackage, directory: Path) -> str:
    """Load all loadable libraries; if there are none, return the reason of the first failure."""
    libraries = sorted(file for pattern in package.libraries for file in directory.glob(pattern))
    problems = []
    for library in libraries:
        try:
            runtime.load_library(str(library))
        except ServableError as error:
            problems.append(error.message)
    for problem in problems:
        _log.warning("A library of %s cannot be loaded: %s", package.distribution, problem)
    if len(problems) == len(libraries):
        return problems[0] if problems else f"it has no {' or '.join(package.libraries)}"
    _log.info("Loaded the operations of %s from %s", package.distribution, directory)
    return ""


def _requirement(package: OpPackage, runtime: TensorFlow) -> str:
    if not package.follows_tensorflow:
        return package.distribution
    major, minor, *_ = runtime.version.split(".")
    return f"'{package.distribution}=={major}.{minor}.*'"


def _explained(error: ServableError, text: str) -> LoadError:
    return LoadError(f"{error.message} {text}", code=error.code)
