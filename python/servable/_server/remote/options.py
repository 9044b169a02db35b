"""How remote base paths are looked after."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


def default_cache_directory() -> Path:
    """Where fetched versions are kept if nobody says otherwise: in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        home = os.path.expanduser("~")
        cache = os.path.join(home, ".cache") if os.path.isabs(home) else tempfile.gettempdir()
    return Path(cache) / "servable" / "models"


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """How remote base paths are looked after.

    Attributes:
        poll_wait_seconds: How often a base path is listed if its model does not say. 0 is until
            that has succeeded once, less is never.
        cache_directory: Where fetched versions are kept; servers may share it.
        cache_max_bytes: The size to keep to. 0 is half of the file system; less is no limit.
        verify_checksums: Compare files with the checksums that stores give.
    """

    poll_wait_seconds: float = 60.0
    cache_directory: Path = field(default_factory=default_cache_directory)
    cache_max_bytes: int = 0
    verify_checksums: bool = True
