"""A new source of versions: a registry, here a table of SQLite that says what is released."""

import sqlite3
import sys
from contextlib import closing

from custom_loader import TableLoader

from servable import lifecycle


class RegistrySource:
    """Emits what is released; `lifecycle.Source` says what it promises."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._names: set[str] = set()

    def connect(self, target: lifecycle.Target[lifecycle.Loader]) -> None:
        self._target = target

    def poll(self) -> None:
        with closing(sqlite3.connect(self._database)) as registry:
            rows = registry.execute("SELECT name, version, path FROM released").fetchall()
        # A name that has gone gets an empty list once, so that all of it is unloaded.
        for name in self._names | {row[0] for row in rows}:
            ids = {lifecycle.ServableId(name, row[1]): row[2] for row in rows if row[0] == name}
            versions = [lifecycle.AspiredVersion(i, TableLoader(ids[i])) for i in ids]
            self._target.set_aspired_versions(name, versions)
        self._names = {row[0] for row in rows}


if __name__ == "__main__":  # custom_source.py DATABASE NAME KEY
    source, handles = RegistrySource(sys.argv[1]), lifecycle.ServableHandles()
    source.connect(manager := lifecycle.AspiredVersionsManager(handles, lifecycle.EventBus()))
    manager.start()
    source.poll()
    with handles.handle(sys.argv[2], timeout_seconds=10) as table:
        print(table.id.version, table.value[sys.argv[3]])
