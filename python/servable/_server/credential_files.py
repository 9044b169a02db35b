"""Takes up certificates and keys when their files change, while the server runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from servable._server.remote.files import read_file
from servable.errors import ServableError

_log = logging.getLogger(__name__)


class CredentialFiles:
    """Some files that belong together, and what puts their contents in force.

    Contents are compared rather than times: secrets are often mounted through links that are
    swapped, with times that say nothing. A change is taken up when two looks in a row found the same,
    so that a certificate and its key may be written one after the other.
    """

    def __init__(self, paths: Sequence[str], apply: Callable[[], None]) -> None:
        """Put the contents in force, and remember them.

        Args:
            paths: The files.
            apply: Reads them and puts what they say in force, or raises and changes nothing.

        Raises:
            ServableError: What `apply` raises.
        """
        self._paths = paths
        self._apply = apply
        self._looked_at = self._contents()
        self._is_new = False
        apply()

    def look(self) -> None:
        """See whether the contents have changed; what is wrong with new ones goes to the log."""
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
                _log.error("%s changed and cannot be used; the old stay: %s", names, error)
            else:
                _log.info("%s changed; new connections and requests go by it", names)

    def _contents(self) -> list[bytes | str]:
        return [_content(path) for path in self._paths]


def watch(
    files: Sequence[CredentialFiles], stopping: threading.Event, period_seconds: float
) -> None:
    """Look at files again and again until an event is set."""
    while not stopping.wait(period_seconds):
        for some in files:
            some.look()


def _content(path: str) -> bytes | str:
    try:
        return read_file(path)
    except ServableError as error:
        return str(error)
