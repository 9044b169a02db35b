"""In-memory stores, and versions in them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fsspec
import pytest

from servable._server.remote.cache import VersionCache
from servable._server.remote.fetch import Fetcher, FetchOptions
from servable._server.remote.store import RemoteStore

WriteVersion = Callable[..., str]


@pytest.fixture
def base_url() -> Iterator[str]:
    """An empty base path."""
    url = f"memory://{uuid.uuid4().hex}/m"
    yield url
    memory = fsspec.filesystem("memory")
    memory.rm(url.removesuffix("/m"), recursive=True) if memory.exists(url) else None


@pytest.fixture
def write(base_url: str) -> WriteVersion:
    """Writes a version: `write(3, {"saved_model.pb": b"..."})`; returns its URL."""

    def write(version: object, files: Mapping[str, bytes] | None = None) -> str:
        url = f"{base_url}/{version}"
        for path, content in (files or {"saved_model.pb": b"graph"}).items():
            fsspec.filesystem("memory").pipe(f"{url}/{path}", content)
        return url

    return write


@pytest.fixture
def cache(tmp_path: Path) -> VersionCache:
    return VersionCache(tmp_path / "cache", max_bytes=-1)


@pytest.fixture
def fetcher(cache: VersionCache) -> Fetcher:
    return Fetcher(RemoteStore(), cache, FetchOptions(backoff_seconds=0))
