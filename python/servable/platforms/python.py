"""Models in Python."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from servable.lifecycle import Loader, ServableId
from servable.loaders._python_callable import PythonCallableLoader
from servable.loaders._python_model import ENTRY_POINT_FILE, MODEL_FILE, load_python_model
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
    declared_signatures,
)


class PythonPlatform(Platform):
    """Loads models into the server's process, or into worker processes."""

    contents = f"a Python model is {MODEL_FILE}, or {ENTRY_POINT_FILE} with the object to import"
    runs_code = True
    precedence = 1  # the code may read files of other kinds
    has_own_batch_threads = True

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a file that `load_python_model` starts from."""
        return MODEL_FILE in files or ENTRY_POINT_FILE in files

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Import the model, and take its signatures."""
        model = load_python_model(Path(directory))
        model.close()
        return declared_signatures(model.signatures)

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Import the code here, or in workers."""
        options, limit = directory.model.python, self.context.flags.max_run_seconds
        loader = PythonCallableLoader(servable_id, directory.path, options, limit)
        return self.completed(loader, directory)


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of Python models."""
    yield PythonPlatform("python", context)
