"""Base paths on a real web server, with everything that breaks there."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from servable.errors import Code, ServableError
from servable.remote.cache import VersionCache
from servable.remote.fetch import Fetcher, FetchOptions
from servable.remote.store import RemoteStore
from support.s3_server import Proxy

pytest.importorskip("aiohttp")

NEVER = threading.Event()
MIB = 1 << 20


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    """Fetches into a cache of the test's own."""
    cache = VersionCache(tmp_path / "cache", max_bytes=-1)
    return Fetcher(RemoteStore(), cache, FetchOptions(backoff_seconds=0.01))


class WebHandler(http.server.SimpleHTTPRequestHandler):
    """Python's web server: listings, but neither ranges nor checksums."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class RangeHandler(WebHandler):
    """A web server that knows ranges and validators, as most do.

    Attributes:
        ranges: Those that were asked for and granted.
    """

    ranges: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            super().do_GET()
            return
        content = path.read_bytes()
        wanted, start = self.headers.get("Range"), 0
        if wanted and self.headers["If-Range"] == self.date_time_string(int(path.stat().st_mtime)):
            self.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL and the directory of a web server."""
    root = tmp_path / "web"
    root.mkdir()
    with serving(WebHandler, root) as url:
        yield url, root


@contextlib.contextmanager
def serving(handler_class: type[WebHandler], root: Path) -> Iterator[str]:
    """Serve a directory; the URL is that of the server."""
    handler = functools.partial(handler_class, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_listings_of_a_web_server_are_base_paths(web: tuple[str, Path], fetcher: Fetcher) -> None:
    url, root = web
    content = os.urandom(3 * MIB)
    (root / "m/1/variables").mkdir(parents=True)
    (root / "m/1/saved_model.pb").write_bytes(b"graph")
    (root / "m/1/variables/with space %").write_bytes(content)
    (root / "m/README").write_text("no version")

    assert fetcher.store.directories(f"{url}/m") == ["1"]
    fetched = fetcher.fetch(f"{url}/m/1", NEVER)

    assert (fetched.path / "saved_model.pb").read_bytes() == b"graph"
    assert (fetched.path / "variables/with space %").read_bytes() == content


def test_a_connection_that_breaks_is_begun_anew_without_ranges(
    web: tuple[str, Path], fetcher: Fetcher
) -> None:
    url, root = web
    content = os.urandom(3 * MIB)
    (root / "m/1").mkdir(parents=True)
    (root / "m/1/f").write_bytes(content)
    proxy = Proxy(int(url.rsplit(":", 1)[1]))
    proxy.cut_after = MIB
    broken = f"{proxy.endpoint}/m/1"
    with pytest.raises(ServableError) as raised:
        fetcher.fetch(broken, NEVER)
    assert raised.value.code is Code.UNAVAILABLE

    proxy.cut_after = None
    assert (fetcher.fetch(broken, NEVER).path / "f").read_bytes() == content
    proxy.close()


def test_a_connection_that_breaks_is_gone_on_with_where_there_are_ranges(
    tmp_path: Path, fetcher: Fetcher
) -> None:
    content = os.urandom(6 * MIB)
    (tmp_path / "web/m/1").mkdir(parents=True)
    (tmp_path / "web/m/1/f").write_bytes(content)
    with serving(RangeHandler, tmp_path / "web") as url:
        proxy = Proxy(int(url.rsplit(":", 1)[1]))
        proxy.cut_after = 4 * MIB
        RangeHandler.ranges.clear()

        assert (fetcher.fetch(f"{proxy.endpoint}/m/1", NEVER).path / "f").read_bytes() == content

        assert proxy.cuts == 1
        (wanted,) = RangeHandler.ranges
        assert 0 < int(wanted.removeprefix("bytes=").removesuffix("-")) <= 4 * MIB
        proxy.close()


def test_what_is_missing_is_told(web: tuple[str, Path], fetcher: Fetcher) -> None:
    with pytest.raises(ServableError) as raised:
        fetcher.store.directories(f"{web[0]}/none")
    assert raised.value.code is Code.NOT_FOUND
