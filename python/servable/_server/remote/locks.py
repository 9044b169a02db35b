"""Temporary lock files, shared by all servers that use a cache directory.

The operating system releases the locks of a process when it ends for any reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from servable.errors import CancelledError

_RETRY_SECONDS = 0.1


class LockFile:
    """A lock on a path, held from `try_lock` to `close`.

    Each instance is a separate lock, also within one process.
    """

    def __init__(self, path: Path) -> None:
        """Set the path; the file is created when the lock is taken."""
        self._path = path
        self._descriptor: int | None = None

    def try_lock(self, *, shared: bool) -> bool:
        """Take the lock unless a conflicting one is held.

        Returns:
            Whether it is held now.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            # The file may have been removed between the two calls; a lock on it is worthless.
            if os.fstat(descriptor).st_ino == os.stat(self._path).st_ino:
                self._descriptor, descriptor = descriptor, -1
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._descriptor is not None

    def lock(self, *, shared: bool, cancelled: threading.Event) -> None:
        """Wait for the lock.

        Raises:
            CancelledError: The event was set before the lock was free.
        """
        while not self.try_lock(shared=shared):
            if cancelled.wait(_RETRY_SECONDS):
                raise CancelledError("The version is no longer needed")

    def close(self, *, remove: bool = False) -> None:
        """Release the lock.

        Args:
            remove: Remove the file, too; only for an exclusive lock.
        """
        if self._descriptor is not None:
            if remove:
                with contextlib.suppress(FileNotFoundError):
                    self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def exclusive(path: Path, cancelled: threading.Event) -> Iterator[None]:
    """Hold an exclusive lock on a path; the file exists only meanwhile."""
    lock = LockFile(path)
    lock.lock(shared=False, cancelled=cancelled)
    try:
        yield
    finally:
        lock.close(remove=True)
