"""A model server that speaks TensorFlow Serving's APIs and installs with pip."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servable.config.flags import Flags
    from servable.server import ModelServer

__version__ = "0.1.0"

__all__ = ["Flags", "ModelServer", "__version__"]


def __getattr__(name: str) -> object:
    """Import the public classes when they are asked for: the command line starts without them."""
    if name == "ModelServer":
        from servable.server import ModelServer

        return ModelServer
    if name == "Flags":
        from servable.config.flags import Flags

        return Flags
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
