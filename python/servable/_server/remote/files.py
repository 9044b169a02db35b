"""Reads single files, such as configuration files, from the local disk, object stores and web servers."""

from __future__ import annotations

import functools
from pathlib import Path

from servable._server.remote.store import RemoteStore
from servable._server.remote.urls import is_remote, local_path, shown
from servable.errors import Code, ConfigError, ServableError

MAX_REMOTE_BYTES = 64 << 20
"""The maximum size of a configuration file."""


def read_file(path: str) -> bytes:
    """The content of a file.

    Args:
        path: A path, or a URL of any kind that base paths may have.

    Raises:
        ConfigError: It cannot be read; the message begins with the path.
    """
    if is_remote(path):
        try:
            return _store().content(path, MAX_REMOTE_BYTES)
        except ServableError as error:
            raise ConfigError(f"{shown(path)}; {error.message}", code=error.code) from error
    try:
        return Path(local_path(path)).read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}; {error.strerror}", code=Code.NOT_FOUND) from error
    except OSError as error:
        raise ConfigError(f"{path}; {error.strerror}", code=Code.UNKNOWN) from error
    except ValueError as error:  # a null byte in the path
        raise ConfigError(f"{path}; {error}", code=Code.UNKNOWN) from error


def is_remote_file(path: str) -> bool:
    """Whether a path is the URL of a file, in contrast to a directory with entries; true if nothing is there."""
    if not is_remote(path):
        return False
    try:
        children = _store().children(path)
    except ServableError as error:
        return error.code is Code.NOT_FOUND
    # A web server does not say that a page is no listing.
    return children.is_file or not (children.directories or children.files)


def require_local(flag: str, path: str, reason: str) -> None:
    """Refuse a URL where a local file is required.

    Raises:
        ConfigError: The path is remote.
    """
    if is_remote(path):
        raise ConfigError(f"--{flag} has to be a local file: {reason}; got {shown(path)}")


@functools.cache
def _store() -> RemoteStore:
    """A store without restrictions: these files are named on the command line, which may name any place."""
    return RemoteStore()
