"""The size of a version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from servable.errors import NotFoundError


def size_of_files(directory: str | Path) -> int:
    """The size in bytes of all files below a directory, or of a single file.

    Raises:
        NotFoundError: An entry cannot be inspected.
    """
    total = 0
    try:
        if os.path.isfile(directory):
            return os.stat(directory).st_size
        for parent, _, files in os.walk(directory, onerror=_raise):
            total += sum(os.stat(os.path.join(parent, file)).st_size for file in files)
    except OSError as error:
        raise NotFoundError(f"{error.filename}: {error.strerror}") from error
    return total


def _raise(error: OSError) -> NoReturn:
    raise error
