"""Reloads certificates and keys when their files change, while the server runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from servable._server.remote.files import read_file
from servable.errors import ServableError

_log = logging.getLogger(__name__)


class CredentialFiles:
    """A set of files, and the function that applies their contents.

    Contents are compared rather than times: secrets are often mounted through links that are swapped, whose times do
    not show changes. A change is applied when two inspections in succession found the same contents, so that a
    certificate and its key may be written one after the other.
    """

    def __init__(self, paths: Sequence[str], apply: Callable[[], None]) -> None:
        """Apply the contents, and remember them.

        Args:
            paths: The files.
            apply: Reads the files and applies them, or raises and changes nothing.

        Raises:
            ServableError: Raised by `apply`.
        """
        self._paths = paths
        self._apply = apply
        self._looked_at = self._contents()
        self._is_new = False
        apply()

    def look(self) -> None:
        """Apply changed contents; errors go to the log."""
        contents = self._contents()
        if contents != self._looked_at:
            self._looked_at = contents
            self._is_new = True
        elif self._is_new:
            self._is_new = False
            names = ", ".join(self._paths)
            try:
                self._apply()
            except ServableError as error:
                _log.error("%s changed and cannot be used; the old ones stay: %s", names, error)
            else:
                _log.info("%s changed; new connections and requests use it", names)

    def _contents(self) -> list[bytes | str]:
        return [_content(path) for path in self._paths]


def watch(
    files: Sequence[CredentialFiles], stopping: threading.Event, period_seconds: float
) -> None:
    """Inspect files periodically until an event is set."""
    while not stopping.wait(period_seconds):
        for some in files:
            some.look()


def _content(path: str) -> bytes | str:
    try:
        return read_file(path)
    except ServableError as error:
        return str(error)
