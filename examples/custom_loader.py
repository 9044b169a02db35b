"""A new kind of servable: look-up tables, each version a directory with a `table.json`."""

import json
import sys
from pathlib import Path

from servable import lifecycle, sources


class TableLoader:
    """Loads one table; `lifecycle.Loader` says what each member promises."""

    def __init__(self, path: str) -> None:
        self._file = Path(path, "table.json")

    def estimate_resources(self) -> int:
        return 10 * self._file.stat().st_size

    def load(self) -> None:
        self.servable = lifecycle.ObjectServable(json.loads(self._file.read_text()))

    def unload(self) -> None:
        del self.servable


class TableAdapter(lifecycle.SourceAdapter[str, lifecycle.Loader]):
    """Makes a loader for each version directory."""

    def adapt(self, servable_id: lifecycle.ServableId, item: str) -> lifecycle.Loader:
        return TableLoader(item)


if __name__ == "__main__":  # custom_loader.py BASE_PATH KEY
    handles, adapter = lifecycle.ServableHandles(), TableAdapter()
    adapter.connect(manager := lifecycle.AspiredVersionsManager(handles, lifecycle.EventBus()))
    sources.FileSystemSource([sources.MonitoredServable("table", sys.argv[1])]).connect(adapter)
    manager.start()
    with handles.handle("table", timeout_seconds=10) as table:  # loaded until the block ends
        print(table.id.version, table.value[sys.argv[2]])
