"""A model server that speaks TensorFlow Serving's APIs and installs with pip.

What is public is here and in the modules that `dir(servable)` names, each of which lists its names in `__all__`.
Everything below a name that begins with an underscore may change without notice.
"""

from __future__ import annotations as _annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from servable._server.config.flags import Flags
    from servable._server.server import ModelServer
    from servable.saving import load, save

__version__ = "0.1.0"

__all__ = ["Flags", "ModelServer", "__version__", "load", "save"]

_MODULES = frozenset(
    "batching cli client errors lifecycle loaders platforms saving signature sources testing warmup".split()
)


def __getattr__(name: str) -> object:
    """Import public names lazily, so that the command line starts without them."""
    from importlib import import_module

    if name == "ModelServer":
        from servable._server.server import ModelServer

        return ModelServer
    if name == "Flags":
        from servable._server.config.flags import Flags

        return Flags
    if name in ("load", "save"):
        return getattr(import_module("servable.saving"), name)
    if name in _MODULES:
        return import_module(f"servable.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, without imported modules."""
    return sorted({*__all__, *_MODULES})
