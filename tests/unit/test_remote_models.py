from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from servable._server.border.gateway import PublishedModel
from servable._server.config.flags import Flags
from servable._server.config.models import TENSORFLOW_PLATFORM, ModelConfig, read_model_config_file
from servable._server.config.options import remote_options
from servable._server.publisher import ModelPublisher
from servable._server.remote.options import RemoteOptions, default_cache_directory
from servable._server.server_core import CoreOptions, ServerCore
from servable.errors import ConfigError, NotFoundError, ServableError
from servable.lifecycle import Loader, RetryPolicy, ServableId, ServableState
from servable.platforms import VersionDirectory
from servable.testing import FakeLoader
from support.fake_platform import FakePlatform

fsspec = pytest.importorskip("fsspec")

GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/remote-storage.md"


class ReadingPlatform(FakePlatform):
    """Reads the only file of a version.

    Attributes:
        read: The content, by version.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[ServableId, str] = {}

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        def on_load() -> None:
            self.read[servable_id] = Path(directory.path, "saved_model.pb").read_text()

        return FakeLoader(on_load=on_load)


class Served:
    """A core, its published states, and two base paths.

    Attributes:
        gaps: How often model `m` was published without an available version after it had one.
    """

    def __init__(self, directory: Path) -> None:
        self.local = directory / "local"
        self.remote = f"memory://{uuid.uuid4().hex}/m"
        self.models: dict[str, PublishedModel] = {}
        self.gaps = 0
        self.platform = ReadingPlatform()
        self.core = ServerCore(
            ModelPublisher(self._publish),
            {TENSORFLOW_PLATFORM: self.platform},
            CoreOptions(
                poll_wait_seconds=0.05,
                retry=RetryPolicy(0),
                remote=RemoteOptions(0.05, directory / "cache", -1),
            ),
        )

    def put_local(self, version: int, content: str = "local") -> None:
        path = self.local / str(version)
        path.mkdir(parents=True)
        (path / "saved_model.pb").write_text(content)

    def put_remote(self, version: int, content: str = "remote") -> None:
        fsspec.filesystem("memory").pipe(
            f"{self.remote}/{version}/saved_model.pb", content.encode()
        )

    def available(self, name: str = "m") -> set[int]:
        states = self.core.monitor.states(name)
        return {v for v, s in states.items() if s.state is ServableState.AVAILABLE}

    def wait(self, *versions: int) -> None:
        assert self.core.monitor.wait_for(lambda: self.available() == {*versions}, 10)

    def _publish(self, models: Sequence[PublishedModel]) -> None:
        for model in models:
            before = self.models.get(model.name)
            served = [any(v.servable for v in m.versions) for m in (before, model) if m]
            self.gaps += served == [True, False]
            self.models[model.name] = model


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    assert made.core.stop(10)


def test_a_remote_model_is_fetched_loaded_and_followed(served: Served) -> None:
    served.put_remote(1)
    served.core.start([ModelConfig("m", served.remote)])
    served.wait(1)
    served.put_remote(2, "newer")
    served.wait(2)
    assert served.platform.read == {ServableId("m", 1): "remote", ServableId("m", 2): "newer"}
    assert not served.gaps


def test_a_file_url_is_loaded_from_where_it_is(served: Served, tmp_path: Path) -> None:
    served.put_local(1)
    served.core.start([ModelConfig("m", f"file://{served.local}")])
    served.wait(1)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("to_remote", [True, False])
def test_a_model_moves_between_places_without_a_gap(served: Served, to_remote: bool) -> None:
    old, new = (served.put_local, served.put_remote)[:: 1 if to_remote else -1]
    paths = [str(served.local), served.remote][:: 1 if to_remote else -1]
    old(1)
    new(2)
    served.core.start([ModelConfig("m", paths[0])])
    served.wait(1)

    served.core.reload([ModelConfig("m", paths[1])])

    served.wait(2)
    assert not served.gaps


def test_a_model_that_is_removed_is_unloaded(served: Served) -> None:
    served.put_remote(1)
    served.core.start([ModelConfig("m", served.remote)])
    served.wait(1)
    served.core.reload([])
    served.wait()


def test_a_reload_reports_a_base_path_that_is_missing(served: Served) -> None:
    served.core.start([])
    with pytest.raises(NotFoundError, match=re.escape(served.remote)):
        served.core.reload([ModelConfig("m", served.remote)])
    served.put_remote(1)
    served.wait(1)


def test_requests_get_the_reason_why_there_is_no_version(served: Served) -> None:
    config = ModelConfig("m", "nowhere://b/m")
    served.core.expect(["m"])
    served.core.start([config])
    for _ in range(1000):
        reason = served.models["m"].unavailable_reason or ""
        if "nowhere" in reason:
            break
        served.core.monitor.wait_for(lambda: False, 0.01)
    assert reason.startswith(
        "Model m is not available yet: no version was found: nowhere://b/m needs"
    )
    assert isinstance(served.core.problems()["m"], ServableError)


def test_the_configuration_of_the_guide_is_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```\n(model_config_list .*?)```", GUIDE.read_text(), re.DOTALL)
    file = tmp_path / "models.config"
    file.write_text(text)
    assert read_model_config_file(str(file)) == (
        ModelConfig("m", "s3://bucket/models/m", remote_poll_wait_seconds=300),
    )


class TestFlags:
    def test_say_how_remote_base_paths_are_looked_after(self) -> None:
        flags = Flags(
            remote_poll_wait_seconds=5,
            remote_cache_directory="/var/cache/models",
            remote_cache_max_bytes=10,
            remote_verify_checksums=False,
        )
        expected = RemoteOptions(5, Path("/var/cache/models"), 10, False)
        assert remote_options(flags) == expected

    def test_have_the_cache_in_the_users_cache_directory_by_default(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/home/me")
        assert remote_options(Flags()).cache_directory == Path("/home/me/.cache/servable/models")
        monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
        assert default_cache_directory() == Path("/caches/servable/models")

    def test_refuse_a_relative_cache_directory(self) -> None:
        with pytest.raises(ConfigError, match="absolute path; got cache"):
            remote_options(Flags(remote_cache_directory="cache"))
