"""Models of several platforms: which there are, what the configuration may say, and who loads their versions."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from servable._server.config.batching import ModelBatching
from servable._server.config.flags import Flags
from servable._server.config.models import ConfigRules, ModelConfig, read_model_config_file
from servable._server.config.permissions import Permissions, PermissionsInForce
from servable._server.publisher import ModelPublisher
from servable._server.remote.options import RemoteOptions
from servable._server.server_core import CoreOptions, ServerCore
from servable.errors import Code, ConfigError, LoadError
from servable.lifecycle import Loader, RetryPolicy, ServableId, ServableState
from servable.loaders import PythonOptions
from servable.loaders._manifest import MANIFEST_FILE, Manifest
from servable.platforms import (
    Platform,
    PlatformContext,
    VersionDirectory,
    find_platforms,
    path_in,
)
from servable.platforms._registry import (
    PlatformAdapter,
    code_platforms,
    kinds_of,
    recognised,
    require_installed,
)
from servable.testing import FakeLoader
from support.fake_platform import FakePlatform

RULES = ConfigRules(("tensorflow", "python"))

FOREIGN = """
from servable.platforms import Platform

class Notes(Platform):
    contents = "notes are notes.txt"

    def recognises(self, files):
        return "notes.txt" in files

    def describe(self, directory):
        return {}

    def make_loader(self, servable_id, directory):
        raise NotImplementedError

def platforms(context):
    yield Notes(NAME, context)
"""


def config_file(directory: Path, platform: str, options: str = "") -> str:
    file = directory / "models.config"
    file.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "/m" model_platform: "{platform}" '
        f"{options} }} }}"
    )
    return str(file)


def test_python_models_can_have_workers(tmp_path: Path) -> None:
    options = "servable_options { python { workers: 3 } }"
    models = read_model_config_file(config_file(tmp_path, "python", options), RULES)
    assert models == (ModelConfig("m", "/m", "python", python=PythonOptions(workers=3)),)


@pytest.mark.parametrize(
    ("platform", "options", "complaint"),
    [
        ("python", "servable_options { python { workers: -1 } }", r"python\.workers -1; want 0"),
        ("pythons", "", "^Model m requests unsupported platform pythons$"),
    ],
)
def test_options_that_a_platform_lacks_are_refused(
    platform: str, options: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_model_config_file(config_file(tmp_path, platform, options), RULES)


def test_each_model_goes_to_its_platform_with_the_configuration_in_force(tmp_path: Path) -> None:
    platforms = {name: FakePlatform(name) for name in ("tensorflow", "python")}
    core = ServerCore(ModelPublisher(lambda models: None), platforms, CoreOptions())
    models = []
    for name in platforms:
        (tmp_path / name / "1").mkdir(parents=True)
        models.append(ModelConfig(name, str(tmp_path / name), name))
    core.start(models[:1])
    wait_for(lambda: platforms["tensorflow"].loaded)
    core.reload(models)
    core.reload(models[1:])
    for model in models:
        directory = VersionDirectory(str(tmp_path / model.name / "1"), model)
        assert platforms[model.name].loaded == [(ServableId(model.name, 1), directory)]
    assert core.stop(10)


class CodePlatform(FakePlatform):
    runs_code = True


class MoodyPlatform(FakePlatform):
    """Loads only what is not batched.

    Attributes:
        attempts: How many loads were begun.
    """

    attempts = 0

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        def on_load() -> None:
            self.attempts += 1
            if not directory.model.batching.is_off:
                raise LoadError("busy", code=Code.UNAVAILABLE)

        return FakeLoader(on_load=on_load)


@pytest.fixture
def moody(tmp_path: Path) -> Iterator[tuple[MoodyPlatform, ServerCore]]:
    platform = MoodyPlatform()
    options = CoreOptions(
        poll_wait_seconds=0,
        retry=RetryPolicy(100_000, 0.01),
        remote=RemoteOptions(0, tmp_path / "cache", -1),
    )
    core = ServerCore(ModelPublisher(lambda models: None), {"tensorflow": platform}, options)
    yield platform, core
    assert core.stop(10)


def reconfigure(core: ServerCore) -> None:
    """Change the configuration, and wait until the one version is loaded with it."""
    core.begin_change(
        lambda models: [replace(model, batching=ModelBatching(is_off=True)) for model in models]
    )

    def is_available() -> bool:
        recorded = core.monitor.state(ServableId("m", 1))
        return recorded is not None and recorded.state is ServableState.AVAILABLE

    assert core.monitor.wait_for(is_available, 60)


def test_a_retry_is_reconfigured_though_the_base_path_cannot_be_listed_any_more(
    tmp_path: Path, moody: tuple[MoodyPlatform, ServerCore]
) -> None:
    platform, core = moody
    (tmp_path / "m/1").mkdir(parents=True)
    core.start([ModelConfig("m", str(tmp_path / "m"))])
    wait_for(lambda: platform.attempts)
    (tmp_path / "m").rename(tmp_path / "gone")
    reconfigure(core)


def test_a_retry_of_a_remote_version_is_reconfigured(
    moody: tuple[MoodyPlatform, ServerCore],
) -> None:
    platform, core = moody
    fsspec = pytest.importorskip("fsspec")
    url = f"memory://{uuid.uuid4().hex}/m"
    fsspec.filesystem("memory").pipe(f"{url}/1/file", b"content")
    core.start([ModelConfig("m", url)])
    wait_for(lambda: platform.attempts)
    reconfigure(core)


def test_a_loader_of_what_brings_code_is_made_only_when_the_code_may_be_run(
    tmp_path: Path,
) -> None:
    permissions = PermissionsInForce(Permissions(("code",)))
    platform = CodePlatform("code", PlatformContext(permissions=permissions))
    (tmp_path / "1").mkdir()
    directory = VersionDirectory(str(tmp_path / "1"), ModelConfig("m", str(tmp_path), "code"))
    loader = PlatformAdapter({"code": platform}).adapt(ServableId("m", 1), directory)
    with pytest.raises(LoadError, match="--allow_python_models"):
        loader.load()
    assert platform.made == []
    permissions.current = Permissions(("code",), all_python_models=True)
    loader.load()
    loader.unload()
    assert len(platform.loaded) == 1


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class TestFindPlatforms:
    def test_finds_one_in_each_file_of_the_package(self) -> None:
        platforms = find_platforms(PlatformContext())
        assert platforms.keys() >= {"tensorflow", "python"}
        assert all(platform.name == name for name, platform in platforms.items())
        assert set(code_platforms(platforms)) == {"mlflow", "pickle", "python", "skops", "torch"}

    def test_finds_those_of_other_distributions(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        install(tmp_path, monkeypatch, "a_notes_platform", "'notes'")
        install(tmp_path, monkeypatch, "a_broken_platform", "nothing_of_that_name")
        platforms = find_platforms(PlatformContext())
        assert platforms["notes"].batching is platforms["python"].context.batching
        (tmp_path / "notes.txt").touch()
        assert recognised(platforms, str(tmp_path)) == "notes"
        (line,) = [message for message in caplog.messages if "left out" in message]
        assert line == (
            "The platform kind (a_broken_platform:platforms) is left out: NameError: "
            "name 'nothing_of_that_name' is not defined"
        )

    def test_imports_no_framework(self) -> None:
        program = (
            "import sys; from servable.platforms import PlatformContext, find_platforms\n"
            "find_platforms(PlatformContext()); print({'numpy', 'tensorflow'} & sys.modules.keys())"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        assert done.stdout == b"set()\n"

    def test_refuses_a_name_that_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(tmp_path, monkeypatch, "another_python_platform", "'python'")
        with pytest.raises(ConfigError) as raised:
            find_platforms(PlatformContext(Flags()))
        assert raised.value.message == (
            "The platform python comes from both servable.platforms.python and "
            "another_python_platform:platforms"
        )


def install(directory: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    """Have a distribution be found that brings a platform, until the test ends."""
    (directory / f"{module}.py").write_text(FOREIGN.replace("NAME", name))
    information = directory / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        f"[servable.platforms]\nkind = {module}:platforms\n"
    )
    monkeypatch.syspath_prepend(directory)


@pytest.mark.parametrize(
    ("files", "platform"),
    [
        (["saved_model.pb", "variables"], "tensorflow"),
        (["saved_model.pbtxt"], "tensorflow"),
        (["model.py", "weights.npz"], "python"),
        (["entry_point.txt"], "python"),
        (["model.py", "saved_model.pb"], "python"),
        (["model.py", "table.tsv"], "python"),
        (["table.tsv"], "hash_map"),
        (["embeddings.npy", "keys.txt"], "embeddings"),
        (["embeddings.npy", "embeddings.bin"], None),
        (["embeddings.safetensors", "model.onnx"], "onnx"),
        (["words.npy"], None),
        (["model.onnx", "encoder.onnx"], "onnx"),
        (["iris.onnx", "iris.onnx.data"], "onnx"),
        (["encoder.onnx", "decoder.onnx"], None),
        (["saved_model.pb", "model.onnx"], "tensorflow"),
        (["model.ubj"], "xgboost"),
        (["model.json", "servable.json"], "xgboost"),
        (["iris.ubj"], "xgboost"),
        (["iris.ubj", "wine.ubj"], None),
        (["model.py", "model.ubj"], "python"),
        (["iris.json"], None),
        (["model.txt", "servable.json"], "lightgbm"),
        (["iris.txt"], None),
        (["model.pt2", "model.pt"], "torch"),
        (["iris.pt"], "torch"),
        (["iris.pt", "wine.pt"], None),
        (["model.pt", "model.onnx"], "onnx"),
        (["weights.pt", "model.py"], "python"),
        (["MLmodel", "model.pkl", "conda.yaml"], "mlflow"),
        (["MLmodel", "model.onnx"], "onnx"),
    ],
)
def test_a_version_is_recognised_by_its_files(
    files: list[str], platform: str | None, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).touch()
    assert recognised(find_platforms(PlatformContext()), str(tmp_path)) == platform


class NotesPlatform(FakePlatform):
    """Recognises `*.notes`."""

    def __init__(self, name: str = "notes") -> None:
        super().__init__(name)

    def recognises(self, files: Collection[str]) -> bool:
        return any(file.endswith(".notes") for file in files)

    is_complete = Platform.is_complete


class SingleNotesPlatform(NotesPlatform):
    serves_files = True


class AccompanyingPlatform(NotesPlatform):
    precedence = -1


def test_one_kind_goes_before_another(tmp_path: Path) -> None:
    (tmp_path / "a.notes").touch()
    named = [AccompanyingPlatform("a"), NotesPlatform("b"), NotesPlatform("c")]
    platforms = {platform.name: platform for platform in named}
    assert [each.name for each in kinds_of(platforms, ["a.notes"])] == ["b", "a"]
    assert recognised(platforms, str(tmp_path)) == "b"
    assert recognised(platforms, str(tmp_path / "missing")) is None


def test_the_manifest_of_a_saved_model_names_its_kind(tmp_path: Path) -> None:
    platforms: dict[str, Platform] = {
        name: each(name) for name, each in (("b", NotesPlatform), ("a", AccompanyingPlatform))
    }
    (tmp_path / "a.notes").touch()
    for platform, wanted in (("a", "a"), ("b", "b"), ("unknown", "b")):
        (tmp_path / MANIFEST_FILE).write_text(Manifest("notes", platform, {}).to_json())
        assert recognised(platforms, str(tmp_path)) == wanted
    (tmp_path / MANIFEST_FILE).write_text("no JSON")
    assert recognised(platforms, str(tmp_path)) == "b"


def test_a_file_is_a_version_of_a_kind_that_serves_files(tmp_path: Path) -> None:
    file, other = tmp_path / "a.notes", tmp_path / "other.txt"
    file.touch()
    other.touch()
    assert SingleNotesPlatform().is_complete(str(file))
    assert not SingleNotesPlatform().is_complete(str(other))
    assert not NotesPlatform().is_complete(str(file))
    assert NotesPlatform().is_complete(str(tmp_path))
    for version in (file, tmp_path):
        assert path_in(str(version), "a.notes") == str(file)


def test_all_runtimes_that_are_missing_are_named() -> None:
    class WithoutRuntime(FakePlatform):
        def require_installed(self) -> None:
            raise LoadError(f"{self.name} is not installed", code=Code.FAILED_PRECONDITION)

    platforms: dict[str, Platform] = {name: WithoutRuntime(name) for name in ("b", "a")}
    platforms["c"] = FakePlatform("c")
    require_installed(platforms, {"c"})
    for names, message in (
        ({"a", "c"}, "a is not installed"),
        ({"b", "a"}, "a is not installed\nb is not installed"),
    ):
        with pytest.raises(LoadError) as raised:
            require_installed(platforms, names)
        assert (raised.value.message, raised.value.code) == (message, Code.FAILED_PRECONDITION)


def test_a_file_is_loaded_as_version_1(tmp_path: Path) -> None:
    file = tmp_path / "a.notes"
    file.touch()
    platform = SingleNotesPlatform()
    core = ServerCore(ModelPublisher(lambda models: None), {"notes": platform}, CoreOptions())
    model = ModelConfig("a", str(file), "notes")
    core.start([])
    core.reload([model])
    assert platform.loaded == [(ServableId("a", 1), VersionDirectory(str(file), model))]
    assert core.stop(10)
