"""Options of remote base paths."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


def default_cache_directory() -> Path:
    """The default directory of fetched versions: in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        home = os.path.expanduser("~")
        cache = os.path.join(home, ".cache") if os.path.isabs(home) else tempfile.gettempdir()
    return Path(cache) / "servable" / "models"


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Options of remote base paths.

    Attributes:
        poll_wait_seconds: The default interval of listings. 0 lists until that has succeeded once; a negative value
            never lists.
        cache_directory: Where fetched versions are stored; servers may share it.
        cache_max_bytes: The size limit. 0 is half of the file system; a negative value is no limit.
        verify_checksums: Compare files with the checksums of stores.
    """

    poll_wait_seconds: float = 60.0
    cache_directory: Path = field(default_factory=default_cache_directory)
    cache_max_bytes: int = 0
    verify_checksums: bool = True
