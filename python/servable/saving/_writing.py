"""Writes a version directory as a whole: nobody sees a part of it, also after a power failure."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from servable.errors import Code, SaveError

_MAX_VERSION = (1 << 63) - 1


class VersionWriter:
    """A directory that becomes a version.

    Attributes:
        path: Where its files are written.
    """

    def __init__(self, base_path: Path, version: int | None, path: Path) -> None:
        """For `writing`."""
        self.path = path
        self._base_path = base_path
        self._version = version

    def publish(self) -> Path:
        """Give the directory its number; servers see it from now on.

        Returns:
            The version directory.

        Raises:
            SaveError: The version exists.
        """
        _sync(self.path)
        while True:
            version = _next_version(self._base_path) if self._version is None else self._version
            target = self._base_path / str(version)
            _refuse_existing(target)
            try:
                self.path.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise _failed(target, error) from error
                if self._version is not None:
                    raise _exists(target) from error
                continue  # another process was faster; it took the number
            _sync_entries(self._base_path)
            return target


@contextlib.contextmanager
def writing(base_path: Path, version: int | None) -> Iterator[VersionWriter]:
    """Make a directory beside the versions of a model, to be published as one; it is removed if it is not.

    Args:
        base_path: The parent directory of the versions; made if it does not exist.
        version: The number; `None` for the one after the highest.

    Raises:
        SaveError: The number is invalid, the version exists, or nothing can be written there.
    """
    if "://" in str(base_path):
        raise SaveError(f"{base_path}: got a URL, want a local directory; upload it afterwards")
    if version is not None and not 0 <= version <= _MAX_VERSION:
        raise SaveError(f"version: got {version}, want 0 to {_MAX_VERSION}")
    if version is not None:
        _refuse_existing(base_path / str(version))
    is_new = not base_path.exists()
    try:
        base_path.mkdir(parents=True, exist_ok=True)
        # In the same file system, so that a rename publishes it. Sources skip names that are no numbers.
        path = base_path / f".saving-{secrets.token_hex(8)}"
        path.mkdir()
    except OSError as error:
        raise _failed(base_path, error) from error
    try:
        yield VersionWriter(base_path, version, path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it has a version now
                base_path.rmdir()


def versions_in(base_path: Path) -> list[int]:
    """The version numbers below a base path, in ascending order."""
    try:
        names = os.listdir(base_path)
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _next_version(base_path: Path) -> int:
    return max(versions_in(base_path), default=0) + 1


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise _exists(target)


def _exists(target: Path) -> SaveError:
    return SaveError(f"{target} exists, and versions are never replaced", code=Code.ALREADY_EXISTS)


def _failed(path: Path, error: OSError) -> SaveError:
    return SaveError(f"{path} cannot be written: {error.strerror}", code=Code.INTERNAL)


def _sync(directory: Path) -> None:
    """Wait until all files below a directory are on the disk."""
    for parent, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_entries(Path(parent))


def _sync_entries(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
