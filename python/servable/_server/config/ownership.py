"""Write access to files: code is only run if no user but the server's and root can change it.

A path is resolved first, and the resolved path is used afterwards. Every directory above it is checked as well: a user
who may write to one of them can replace what is below.
"""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import stat
import sys
from collections.abc import Iterator

from servable.errors import Code, LoadError

MAX_FILES = 100_000
"""The maximum number of files in a directory of code."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class WritableByOthersError(LoadError):
    """A file or directory that other users may write, or that cannot be checked."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Code.PERMISSION_DENIED)


def require_private_file(path: str) -> str:
    """Refuse a file or directory that users other than the server's and root may write or replace.

    Args:
        path: An absolute path.

    Returns:
        The path without symbolic links, which is safe to use.

    Raises:
        WritableByOthersError: Other users may write or replace it.
    """
    try:
        resolved = os.path.realpath(path, strict=True)
        _check(resolved, os.lstat(resolved))
        for parent in _parents(resolved):
            _check(parent, os.lstat(parent), is_parent=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    return resolved


def require_private_tree(directory: str) -> str:
    """Refuse a directory in which other users may write anything, including the targets of symbolic links; or a file.

    All files count, not only code by name: imports also read bytecode and native libraries, and models unpickle.

    Args:
        directory: An absolute path.

    Returns:
        The path without symbolic links, which is safe to use.

    Raises:
        WritableByOthersError: Other users may write to it, or it has too many files to check.
    """
    root = require_private_file(directory)
    waiting, seen, count = [root] if os.path.isdir(root) else [], {root}, 0
    try:
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_FILES:
                        raise WritableByOthersError(
                            f"{directory} has more than {MAX_FILES} files, which is the most that code is looked "
                            "for in"
                        )
                    path = entry.path
                    if entry.is_symlink():
                        path = require_private_file(path)
                    else:
                        _check(path, entry.stat(follow_symlinks=False))
                    if os.path.isdir(path) and path not in seen:
                        seen.add(path)
                        waiting.append(path)
    except OSError as error:
        raise _unreadable(directory, error) from error
    return root


def require_private_module(name: str) -> None:
    """Refuse a module that would be imported from a place that other users may write, such as a working directory.

    Modules that were installed with this interpreter pass: their code runs in any case. Imports nothing.

    Args:
        name: The module.

    Raises:
        WritableByOthersError: Other users may write or replace it.
    """
    top = name.partition(".")[0]
    if top in sys.modules:
        return  # it is already imported; its place no longer matters
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return  # the import gives a better error
    if spec is None:
        return
    places = [
        *(spec.submodule_search_locations or ()),
        *([spec.origin] if spec.has_location else ()),
    ]
    for place in filter(None, places):
        if not is_installed(place):
            (require_private_tree if os.path.isdir(place) else require_private_file)(place)


def is_installed(path: str) -> bool:
    """Whether a file belongs to this interpreter or to a package that is installed in it."""
    resolved = os.path.realpath(path)
    prefixes = {os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    return any(resolved.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)


def _check(path: str, found: os.stat_result, *, is_parent: bool = False) -> None:
    me = os.geteuid()
    if found.st_uid not in (0, me):
        raise WritableByOthersError(
            f"{path} belongs to {_user(found.st_uid)}; code is run only where it belongs to root or to "
            f"{_user(me)}, who runs the server"
        )
    writers = found.st_mode & _OTHERS_WRITE
    # In a sticky directory, only its owner can replace a file.
    if not writers or (is_parent and found.st_mode & stat.S_ISVTX) or stat.S_ISLNK(found.st_mode):
        return
    is_for_group = writers == stat.S_IWGRP and not _has_access_list(path)
    if is_for_group and _is_private_group(found.st_gid, me):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    raise WritableByOthersError(
        f"{path} may be written by others (its mode is {stat.S_IMODE(found.st_mode):04o}); code is run only where "
        f"root and {_user(me)} alone may write: chmod go-w {path}"
    )


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _is_private_group(group_id: int, user_id: int) -> bool:
    """Whether a group is a user's private group without other members, as some systems create it."""
    if user_id == 0:
        return False
    try:
        user, group = pwd.getpwuid(user_id), grp.getgrgid(group_id)
    except KeyError:
        return False
    members = {*group.gr_mem} - {user.pw_name}
    return user.pw_gid == group_id and group.gr_name == user.pw_name and not members


def _has_access_list(path: str) -> bool:
    """Whether the file has an access list: its group permissions may then be those of further users."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except (OSError, AttributeError):  # it has none, or the system does not support them
        return False


def _user(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"


def _unreadable(path: str, error: OSError) -> WritableByOthersError:
    return WritableByOthersError(
        f"Cannot determine which users may write {error.filename or path}: {error.strerror}"
    )
