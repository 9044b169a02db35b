"""Finds the libraries of operations that TensorFlow itself does not have.

A graph may use operations of packages such as `tensorflow-text`, which register them when they are
imported. Here nothing is imported: the operation that is missing tells the package, and the
package's libraries are loaded into the runtime. A package that is not installed is named.
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
    from servable._server.gateway import TensorFlow

_log = logging.getLogger(__name__)

_MISSING = re.compile(r"Op type not registered '([^']+)'")


@dataclass(frozen=True, slots=True)
class OpPackage:
    """A package with operations.

    Attributes:
        distribution: What `pip` calls it.
        module: What Python calls it.
        libraries: Where its libraries are, as patterns below its directory.
        prefixes: How names of its operations begin.
        operations: Names of those that do not begin so.
        follows_tensorflow: Whether its versions are those of the TensorFlow that it fits.
    """

    distribution: str
    module: str
    libraries: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    operations: frozenset[str] = frozenset()
    follows_tensorflow: bool = False

    def has(self, operation: str) -> bool:
        """Whether an operation is one of its own."""
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
"""The packages that are known; everything else is for `--op_libraries`."""


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
        # A graph that anybody may have sent must not bring in native code of anybody.
        _log.warning("The package %s is left alone: %s", module, error)
        return None


class OpPackages:
    """Loads the libraries of packages, each at most once. Safe to use from several threads."""

    def __init__(
        self,
        packages: tuple[OpPackage, ...] = PACKAGES,
        find: Callable[[str], Path | None] = find_package,
    ) -> None:
        """Load nothing yet."""
        self._packages = packages
        self._find = find
        self._lock = threading.Lock()
        # By distribution: why it cannot be used, or nothing where it was loaded.
        self._problems: dict[str, str] = {}

    def provide(self, runtime: TensorFlow, error: ServableError) -> None:
        """Load the libraries of the package that has the operation which an error names.

        Args:
            runtime: Where to load them.
            error: Why a model could not be loaded.

        Raises:
            ServableError: The error itself if it names no operation; otherwise a `LoadError` that
                adds what would help.
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
    """Load what can be loaded; if nothing can, the reason of the first failure."""
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
