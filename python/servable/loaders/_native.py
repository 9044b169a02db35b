"""Loads models of native runtimes other than TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from servable._server.config.text_proto import parse_bytes
from servable.errors import FailedPreconditionError
from servable.lifecycle._loader import Loader
from servable.loaders._description import SignatureDescription, described
from servable.loaders._size import size_of_files

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

_SIGNATURE_DEF_MAP = "tensorflow.serving.SignatureDefMap"


class NativeLoader:
    """Loads one version directory; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        path: str,
        load: Callable[[str], Servable],
        *,
        ram_per_file_byte: float = 1.2,
        other_bytes: Callable[[str], int] | None = None,
    ) -> None:
        """Describe the load; nothing is read yet.

        Args:
            path: The version directory.
            load: Loads the model in it, without the interpreter's lock and at a low CPU priority.
            ram_per_file_byte: The memory of a loaded model, relative to the size of its files.
            other_bytes: Returns the memory that does not depend on the size of the files.
        """
        self._path = path
        self._load = load
        self._ram_per_file_byte = ram_per_file_byte
        self._other_bytes = other_bytes
        self._servable: Servable | None = None

    def estimate_resources(self) -> int:
        """The memory of the loaded model.

        Raises:
            ServableError: A file cannot be read.
        """
        other = self._other_bytes(self._path) if self._other_bytes else 0
        return int(size_of_files(self._path) * self._ram_per_file_byte) + other

    def load(self) -> None:
        """Load the model.

        Raises:
            ServableError: The runtime is missing, or cannot load the model.
        """
        self._servable = self._load(self._path)

    def unload(self) -> None:
        """Free the model; its memory returns to the system."""
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.unload(in_background=True)

    @property
    def servable(self) -> Servable:
        """The loaded model."""
        if self._servable is None:
            raise FailedPreconditionError(f"{self._path} is not loaded")
        return self._servable


def loaded_signatures(loader: Loader) -> Mapping[str, SignatureDescription]:
    """Load a version, take its signatures, and unload it.

    Args:
        loader: Its servable is one of the extension.

    Raises:
        ServableError: As `load`.
    """
    loader.load()
    try:
        servable = cast("Servable", loader.servable)
        message: Any = parse_bytes(servable.signature_defs(), _SIGNATURE_DEF_MAP)
        return described(message.signature_def)
    finally:
        loader.unload()
