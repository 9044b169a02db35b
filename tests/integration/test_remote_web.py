"""Base paths on a real web server, with its failures."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from servable._server.remote.cache import VersionCache
from servable._server.remote.fetch import Fetcher, FetchOptions
from servable._server.remote.store import RemoteStore
from servable._server.remote.stores import Reach, store_of
from servable._server.remote.web import is_internal
from servable.errors import Code, ServableError
from servable.loaders._saved_model_files import NeededFiles, read_needed_files
from servable.sources._uploads import SETTLE_SECONDS
from support.partial_versions import PARTS, complete, copy_part, served_versions
from support.s3_server import Proxy
from support.server_process import StartServer

pytest.importorskip("aiohttp")

NEVER = threading.Event()
MIB = 1 << 20


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    """Fetches into a cache for this test."""
    cache = VersionCache(tmp_path / "cache", max_bytes=-1)
    return Fetcher(RemoteStore(), cache, FetchOptions(backoff_seconds=0.01))


class WebHandler(http.server.SimpleHTTPRequestHandler):
    """Python's web server: listings, but neither ranges nor checksums."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class RangeHandler(WebHandler):
    """A web server with ranges and validators, as most have.

    Attributes:
        ranges: The ranges that were requested and served.
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
    """Serve a directory; returns the URL of the server."""
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


def test_a_fetch_restarts_after_a_broken_connection_without_ranges(
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


def test_a_fetch_resumes_after_a_broken_connection_if_the_server_has_ranges(
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


def test_a_missing_base_path_is_not_found(web: tuple[str, Path], fetcher: Fetcher) -> None:
    with pytest.raises(ServableError) as raised:
        fetcher.store.directories(f"{web[0]}/none")
    assert raised.value.code is Code.NOT_FOUND


def names_mean(monkeypatch: pytest.MonkeyPatch, addresses: Iterator[str]) -> None:
    """Resolve `models.example` to these addresses, in turn."""
    resolve = socket.getaddrinfo

    def resolved(host: object, *arguments: Any, **keywords: Any) -> Any:
        host = next(addresses) if host == "models.example" else host
        return resolve(host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


def reaching(reach: Reach) -> RemoteStore:
    store = RemoteStore()
    store.reach = reach
    return store


def test_a_name_may_not_resolve_to_this_machine_unless_named_at_the_start(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = web
    (root / "m/1").mkdir(parents=True)
    port = url.rsplit(":", 1)[1]
    named = f"http://models.example:{port}"
    stores = frozenset({store_of(named)})
    names_mean(monkeypatch, itertools.repeat("127.0.0.1"))
    with pytest.raises(
        ServableError, match=r"has the address 127\.0\.0\.1, which is on this"
    ) as raised:
        reaching(Reach(stores)).directories(f"{named}/m")
    assert raised.value.code is Code.PERMISSION_DENIED
    with pytest.raises(ServableError, match="on this"):
        reaching(Reach(stores, (f"{named}/other",))).directories(f"{named}/m")
    for reach in (
        Reach(stores, (f"{named}/m",)),
        Reach(stores | {store_of(f"http://127.0.0.1:{port}")}),
    ):
        assert reaching(reach).directories(f"{named}/m") == ["1"]
    by_localhost = f"http://localhost:{port}"
    assert reaching(Reach(frozenset({store_of(by_localhost)}))).directories(
        f"{by_localhost}/m"
    ) == ["1"]


def test_dns_rebinding_has_no_effect(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = web
    (root / "m/1").mkdir(parents=True)
    named = f"http://models.example:{url.rsplit(':', 1)[1]}"
    asked = itertools.count()
    # DNS rebinding: public at the check, and internal at the connection.
    names_mean(
        monkeypatch, ("192.0.2.1" if next(asked) == 0 else "127.0.0.1" for _ in itertools.count())
    )
    store = reaching(Reach(frozenset({store_of(named)})))
    monkeypatch.setattr("servable._server.remote.web._PAGE_SECONDS", 1.0)
    for _ in range(3):
        with pytest.raises(ServableError):
            store.directories(f"{named}/m")


class LyingHandler(WebHandler):
    """Reports a small size for files, or none, and sends more data."""

    says: ClassVar[int | None] = 10

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if Path(self.translate_path(self.path)).is_dir():
            super().do_GET()
            return
        if not self._head():
            return
        self.close_connection = True
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(b"x" * 65536)

    def _head(self) -> bool:
        self.send_response(200)
        if self.command == "HEAD" and self.says is not None:
            self.send_header("Content-Length", str(self.says))
        self.end_headers()
        return True


@pytest.mark.parametrize("says", [10, None])
def test_endless_files_are_abandoned(
    tmp_path: Path, says: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web/m/1").mkdir(parents=True)
    (tmp_path / "web/m/1/f").write_bytes(b"")
    monkeypatch.setattr(LyingHandler, "says", says)
    cache = VersionCache(tmp_path / "cache", max_bytes=4 * MIB)
    fetcher = Fetcher(RemoteStore(), cache, FetchOptions(attempts=1))
    with (
        serving(LyingHandler, tmp_path / "web") as url,
        pytest.raises(ServableError, match=r"want 10|more than the 4194304 bytes of the cache"),
    ):
        fetcher.fetch(f"{url}/m/1", NEVER)
    assert (
        sum(file.stat().st_size for file in cache.directory.rglob("*") if file.is_file()) < 8 * MIB
    )


@pytest.mark.parametrize(
    ("address", "is_inside"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("169.254.169.254", True), ("fe80::1%eth0", True),
        ("0.0.0.0", True), ("::", True), ("::ffff:127.0.0.1", True), ("64:ff9b::7f00:1", True),
        ("2002:7f00:1::", True), ("fd00:ec2::254", True), ("224.0.0.1", True), ("10.0.0.1", False),
        ("192.168.1.1", False), ("93.184.216.34", False), ("fd00::1", False), ("2001:db8::1", False),
    ],
)  # fmt: skip
def test_internal_addresses_are_known_in_every_spelling(address: str, is_inside: bool) -> None:
    assert is_internal(address) is is_inside


def test_urls_do_not_name_other_places_behind_colons(web: tuple[str, Path]) -> None:
    url, root = web
    (root / "m/1").mkdir(parents=True)
    with pytest.raises(ServableError):
        RemoteStore().directories(f"memory://nothing::{url}/m")


class ClaimingHandler(WebHandler):
    """Claims the same checksum for every file."""

    def end_headers(self) -> None:
        self.send_header("Content-MD5", "XrY7u+Ae7tCTyyK7j1rNww==")
        super().end_headers()


def test_checksums_that_are_not_verified_name_no_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"web/{name}/1").mkdir(parents=True)
        (tmp_path / f"web/{name}/1/f").write_bytes(b"hello world")
    with serving(ClaimingHandler, tmp_path / "web") as url:

        def digests(store: RemoteStore) -> set[str]:
            return {store.manifest(f"{url}/{name}/1").digest for name in ("a", "b")}

        assert len(digests(RemoteStore())) == 1
        assert len(digests(RemoteStore(verifies=False))) == 2


@pytest.mark.parametrize("name", ["[", "a[b]c", "a*b", "a\\b", "{a,b}", "a b", "é", "a+b"])
def test_base_paths_with_any_characters_are_listed_and_fetched(
    name: str, web: tuple[str, Path], fetcher: Fetcher
) -> None:
    url, root = web
    (root / name / "m/1/variables").mkdir(parents=True)
    (root / name / "m/1/saved_model.pb").write_bytes(b"graph")
    (root / name / "m/1/variables/a[b]*\\").write_bytes(b"values")

    assert fetcher.store.directories(f"{url}/{name}/m") == ["1"]
    fetched = fetcher.fetch(f"{url}/{name}/m/1", NEVER)

    assert (fetched.path / "saved_model.pb").read_bytes() == b"graph"
    assert (fetched.path / "variables/a[b]*\\").read_bytes() == b"values"


def test_files_beside_versions_are_distinguished_from_them(
    web: tuple[str, Path], fetcher: Fetcher
) -> None:
    url, root = web
    (root / "m/variables").mkdir(parents=True)
    (root / "m/saved_model.pb").write_bytes(b"graph")
    assert fetcher.store.children(f"{url}/m") == (["variables"], ["saved_model.pb"], False)


@pytest.mark.parametrize("handler", [WebHandler, RangeHandler])
def test_a_version_is_fetched_when_the_rest_of_it_is_there(
    handler: type[WebHandler], tmp_path: Path, runtime_models: Path, start_server: StartServer
) -> None:
    models = {f"m{number}": part for number, part in enumerate(PARTS)}
    root = tmp_path / "web"
    for name, (kind, _) in models.items():
        shutil.copytree(runtime_models / kind / "1", root / name / "1")
    flags = (f"--remote_cache_directory={tmp_path / 'cache'}", "--remote_poll_wait_seconds=0.5")
    with serving(handler, root) as url:
        server = start_server({name: f"{url}/{name}" for name in models}, *flags)
        server.wait_until_available(*models)
        for name, (kind, parts) in models.items():
            copy_part(runtime_models / kind / "1", root / name / "2", parts)
        # Longer than a complete version takes to settle.
        deadline = time.monotonic() + 2 * SETTLE_SECONDS
        while time.monotonic() < deadline:
            for name, part in models.items():
                assert served_versions(server, name) == {1: "AVAILABLE"}, part
            time.sleep(0.2)
        for name, (kind, _) in models.items():
            complete(runtime_models / kind / "1", root / name / "2")
        server.wait_until_available(*models, version=2)


def test_little_of_a_large_graph_is_read_to_know_what_belongs_to_it(
    web: tuple[str, Path], fetcher: Fetcher, runtime_models: Path
) -> None:
    _, root = web
    graph = (runtime_models / "linear/1/saved_model.pb").read_bytes()
    # An unknown field of 64 MiB in front of the graph's fields.
    padding = b"\x9a\x3f\x80\x80\x80\x20"
    (root / "m/1").mkdir(parents=True)
    with (root / "m/1/saved_model.pb").open("wb") as file:
        file.write(padding)
        file.seek(64 * MIB, os.SEEK_CUR)
        file.write(graph)
    RangeHandler.ranges.clear()
    with serving(RangeHandler, root) as url:
        manifest = fetcher.store.manifest(f"{url}/m/1")
        (file,) = manifest.files
        reader = fetcher.store.open(manifest.url, file)
        assert read_needed_files("saved_model.pb", reader) == NeededFiles(has_variables=True)
        assert RangeHandler.ranges == [f"bytes={len(padding) + 64 * MIB}-"]
