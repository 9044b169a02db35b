"""An adapter that needs no framework."""

from __future__ import annotations

from pathlib import Path

from servable.errors import Code, LoadError
from servable.lifecycle import Loader, ServableId, SourceAdapter
from servable.testing import FakeLoader


class FakeAdapter(SourceAdapter[str, Loader]):
    """Loads directories that hold nothing; a file named `broken` makes the load fail, with the code that it names."""

    def adapt(self, servable_id: ServableId, item: str) -> Loader:
        def on_load() -> None:
            broken = Path(item, "broken")
            if broken.exists():
                code = Code[broken.read_text() or "DATA_LOSS"]
                raise LoadError(f"cannot parse {servable_id.version}", code=code)

        return FakeLoader(on_load=on_load)
