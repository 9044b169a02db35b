"""Opens a version in this process, with the code and the libraries of the server."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from servable._server.config.models import ModelConfig
from servable._server.config.text_proto import parse_bytes
from servable.errors import Code, LoadError
from servable.lifecycle import ServableId
from servable.lifecycle._loader import Loader
from servable.loaders._description import SignatureDescription, described
from servable.loaders.models import Model
from servable.platforms import Platform, PlatformContext, VersionDirectory, find_platforms
from servable.platforms._registry import recognised

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

_SIGNATURE_DEF_MAP = "tensorflow.serving.SignatureDefMap"


class OpenVersion:
    """A loaded version.

    Attributes:
        platform: The name of its platform.
        signatures: Its signatures, by name.
        model: Runs it.
    """

    def __init__(
        self, path: Path, platform: str | None = None, *, is_trusted: bool = False
    ) -> None:
        """Load a version.

        Args:
            path: The version directory, or the file of a kind that needs no directory.
            platform: The name of its platform; by default the one that recognises it.
            is_trusted: Whether code in files such as pickles may be run, in a process for it.

        Raises:
            ServableError: It cannot be loaded.
        """
        path = path.resolve()
        self.platform = platform or _recognised(path)
        found = _platforms().get(self.platform)
        if found is None:
            raise LoadError(
                f"{path} is a model of the platform {self.platform}; want one of {', '.join(_platforms())}",
                code=Code.UNIMPLEMENTED,
            )
        found.require_installed()
        self._loader = _loader(path, found, is_trusted)
        self._loader.load()
        servable = cast("Servable", self._loader.servable)
        message: Any = parse_bytes(servable.signature_defs(), _SIGNATURE_DEF_MAP)
        self.signatures: Mapping[str, SignatureDescription] = described(message.signature_def)
        self.model = Model(servable)

    def close(self) -> None:
        """Unload it."""
        self._loader.unload()


@functools.cache
def _platforms() -> Mapping[str, Platform]:
    # One set for the process: a runtime, such as TensorFlow, is opened once.
    return find_platforms(PlatformContext())


def _recognised(path: Path) -> str:
    found = recognised(_platforms(), str(path))
    if found is None:
        wanted = "; ".join(platform.contents for platform in _platforms().values())
        raise LoadError(f"{path} is no model: {wanted}", code=Code.NOT_FOUND)
    return found


def _loader(path: Path, platform: Platform, is_trusted: bool) -> Loader:
    # Python models report where they are by this name.
    name = f"{path.parent.name}" if path.name.isdigit() else path.name
    version = int(path.name) if path.name.isdigit() else 1
    model = ModelConfig(
        name=name, base_path=str(path.parent), platform=platform.name, trusted=is_trusted
    )
    return platform.make_loader(ServableId(name, version), VersionDirectory(str(path), model))
