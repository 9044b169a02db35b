"""Platforms without a framework."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from servable.errors import Code, LoadError
from servable.lifecycle import Loader, ServableId
from servable.platforms import Platform, PlatformContext, SignatureDescription, VersionDirectory
from servable.testing import FakeLoader


class FakePlatform(Platform):
    """Loads every directory, whatever it holds; a file named `broken` makes the load fail, with the code that it names.

    Attributes:
        made: What loaders were made of, in order.
        loaded: What was loaded, in order.
    """

    contents = "a version is a directory"

    def __init__(
        self,
        name: str = "tensorflow",
        context: PlatformContext | None = None,
        is_complete: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(name, context or PlatformContext())
        self.made: list[tuple[ServableId, VersionDirectory]] = []
        self.loaded: list[tuple[ServableId, VersionDirectory]] = []
        self._is_complete = is_complete or (lambda directory: Path(directory).name.isdigit())

    def recognises(self, files: Collection[str]) -> bool:
        return bool(files)

    def is_complete(self, directory: str) -> bool:
        return self._is_complete(directory)

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        return {}

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        self.made.append((servable_id, directory))

        def on_load() -> None:
            self.loaded.append((servable_id, directory))
            broken = Path(directory.path, "broken")
            if broken.exists():
                code = Code[broken.read_text() or "DATA_LOSS"]
                raise LoadError(f"cannot parse {servable_id.version}", code=code)

        return FakeLoader(on_load=on_load)
