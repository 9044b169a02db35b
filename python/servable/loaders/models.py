"""Models to call from Python, in programs without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from servable.errors import FailedPreconditionError
from servable.lifecycle._handles import ObjectServable
from servable.loaders._arrays import array_of, elements_of

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

__all__ = ["LoadsModel", "Model", "ModelLoader"]


class LoadsModel(Protocol):
    """A loader of models that servers can publish, such as `SavedModelLoader` and `PythonCallableLoader`."""

    def estimate_resources(self) -> int:
        """See `servable.lifecycle.Loader`."""

    def load(self) -> None:
        """See `servable.lifecycle.Loader`."""

    def unload(self) -> None:
        """See `servable.lifecycle.Loader`."""

    @property
    def servable(self) -> Servable:
        """See `servable.lifecycle.Loader`; a servable that servers can publish."""


class Model:
    """A loaded model, as a function of NumPy arrays. May be called from any thread."""

    def __init__(self, servable: Servable) -> None:
        """Wrap a loaded servable."""
        self._servable = servable

    def __call__(
        self, inputs: Mapping[str, Any], signature_name: str = "serving_default"
    ) -> dict[str, Any]:
        """Run once, on the calling thread and without the interpreter lock.

        Args:
            inputs: An array for each input of the signature, or what becomes one, of the dtype that the signature
                says; those that have defaults may be left out.
            signature_name: Which signature.

        Returns:
            All outputs by name, as read-only arrays; strings are `bytes`.

        Raises:
            ServableError: What a client of a server would get.
        """
        sent = {name: elements_of(f'input "{name}"', value) for name, value in inputs.items()}
        outputs = self._servable.run(signature_name, sent)
        return {name: array_of(lent, data_type) for name, (data_type, lent) in outputs.items()}


class ModelLoader:
    """Loads a model for `ServableHandles` and managers built on them; see `servable.lifecycle.Loader`."""

    def __init__(self, loader: LoadsModel) -> None:
        """Wrap a loader; nothing is read yet."""
        self._loader = loader
        self._servable: ObjectServable[Model] | None = None

    def estimate_resources(self) -> int:
        """The estimate of the wrapped loader."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Load the model."""
        self._loader.load()
        self._servable = ObjectServable(Model(self._loader.servable))

    def unload(self) -> None:
        """Unload the model. Later calls of it fail."""
        self._servable = None
        self._loader.unload()

    @property
    def servable(self) -> ObjectServable[Model]:
        """The model, as a servable."""
        if self._servable is None:
            raise FailedPreconditionError("the model is not loaded")
        return self._servable
