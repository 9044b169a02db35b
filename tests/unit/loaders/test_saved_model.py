from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from servable._server.config.text_proto import new_message
from servable.errors import (
    Code,
    FailedPreconditionError,
    LoadError,
    NotFoundError,
    ServableError,
)
from servable.loaders import (
    SavedModelLoader,
    SavedModelOptions,
    TensorFlowRuntime,
)
from servable.loaders._saved_model import is_saved_model


class FakeModel:
    unloads = 0

    def unload(self, *, in_background: bool) -> None:
        assert in_background
        self.unloads += 1


class FakeTensorFlow:
    def __init__(self) -> None:
        self.loaded: list[tuple[str, SavedModelOptions]] = []
        self.model = FakeModel()
        self.calls: list[str] = []

    def devices(self) -> list[tuple[str, str, int | None]]:
        prefix = "/job:localhost/replica:0/task:0/device:"
        return [(f"{prefix}CPU:0", "CPU", 1 << 28), (f"{prefix}GPU:0", "GPU", 1 << 30)]

    def start_threads(self, options: SavedModelOptions) -> None:
        self.calls.append("start_threads")

    def load_saved_model(
        self, path: str, options: SavedModelOptions, *, in_background: bool
    ) -> FakeModel:
        self.calls.append("load in the background" if in_background else "load")
        self.loaded.append((path, options))
        return self.model


def runtime(tensorflow: Any) -> TensorFlowRuntime:
    return TensorFlowRuntime(find=lambda: "/somewhere", open_runtime=lambda directory: tensorflow)


def test_gpus_are_logged_with_the_first_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shared = runtime(FakeTensorFlow())
    for version in (1, 2):
        SavedModelLoader(f"/models/m/{version}", shared, SavedModelOptions()).load()
    lines = [line for line in caplog.messages if line.startswith("TensorFlow uses ")]
    name = "/job:localhost/replica:0/task:0/device:GPU:0"
    assert lines == [f"TensorFlow uses {name}, and up to 1073741824 bytes of its memory"]


def test_a_model_is_loaded_with_its_options_and_unloaded_once() -> None:
    tensorflow = FakeTensorFlow()
    options = SavedModelOptions(tags=("serve", "gpu"))
    loader = SavedModelLoader("/models/m/1", runtime(tensorflow), options)
    with pytest.raises(FailedPreconditionError, match="/models/m/1 is not loaded"):
        _ = loader.servable
    loader.load()
    assert tensorflow.loaded == [("/models/m/1", options)]
    assert loader.servable is tensorflow.model  # type: ignore[comparison-overlap]
    loader.unload()
    loader.unload()
    assert tensorflow.model.unloads == 1


def test_a_load_is_in_the_background_but_threads_that_serve_are_not() -> None:
    tensorflow = FakeTensorFlow()
    SavedModelLoader("/models/m/1", runtime(tensorflow), SavedModelOptions()).load()
    assert tensorflow.calls == ["start_threads", "load in the background"]

    tensorflow = FakeTensorFlow()
    own_threads = SavedModelOptions(session_config=b"\x48\x01")  # use_per_session_threads
    SavedModelLoader("/models/m/1", runtime(tensorflow), own_threads).load()
    assert tensorflow.calls == ["load"]


def test_exceptions_of_a_load_are_raised() -> None:
    class Broken(FakeTensorFlow):
        def load_saved_model(
            self, path: str, options: SavedModelOptions, *, in_background: bool
        ) -> FakeModel:
            raise NotFoundError(f"{path}; No such file or directory")

    loader = SavedModelLoader("/models/m/1", runtime(Broken()), SavedModelOptions())
    with pytest.raises(NotFoundError, match="/models/m/1"):
        loader.load()


@pytest.mark.parametrize(
    ("message", "may_pass"),
    [
        ("/models/m/1/assets/words.txt; No such file or directory", True),
        ("Specified file path does not appear to contain a SavedModel bundle", True),
        ("Could not find meta graph def matching supplied tags: { gpu }", False),
        ("No attr named 'dtype' in NodeDef:", False),
        ("Key dense/kernel not found in checkpoint", False),
        ("Op type not registered 'Nonsense' in binary", False),
    ],
)
def test_a_missing_file_may_appear_later(message: str, may_pass: bool) -> None:
    class Broken(FakeTensorFlow):
        version = "2.21.0"

        def load_saved_model(
            self, path: str, options: SavedModelOptions, *, in_background: bool
        ) -> FakeModel:
            raise NotFoundError(message)

    loader = SavedModelLoader("/models/m/1", runtime(Broken()), SavedModelOptions())
    with pytest.raises(ServableError) as caught:
        loader.load()
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.message.startswith(message)
    assert caught.value.may_pass is may_pass


def test_the_estimate_is_the_size_of_all_files_and_a_fifth(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"x" * 100)
    (tmp_path / "variables/data").write_bytes(b"x" * 33)
    loader = SavedModelLoader(str(tmp_path), runtime(None), SavedModelOptions())
    assert loader.estimate_resources() == 159
    gone = SavedModelLoader(str(tmp_path / "gone"), runtime(None), SavedModelOptions())
    with pytest.raises(NotFoundError, match="gone: No such file or directory"):
        gone.estimate_resources()


def test_the_runtime_is_opened_once_when_it_is_first_needed() -> None:
    opened: list[str] = []

    def open_runtime(directory: str) -> Any:
        opened.append(directory)
        return object()

    lazy = TensorFlowRuntime(find=lambda: "/site/tensorflow", open_runtime=open_runtime)
    lazy.require_installed()
    assert opened == []
    assert lazy.get() is lazy.get()
    assert opened == ["/site/tensorflow"]


def test_without_tensorflow_the_error_says_what_to_install() -> None:
    missing = TensorFlowRuntime(find=lambda: None)
    for needing in (missing.require_installed, missing.get):
        with pytest.raises(LoadError, match="TensorFlow is not installed; install it with") as info:
            needing()
        assert "pip install tensorflow-cpu" in info.value.message
        assert info.value.code is Code.FAILED_PRECONDITION


def test_a_tensorflow_that_does_not_fit_is_named_with_what_to_install() -> None:
    def open_runtime(directory: str) -> Any:
        raise LoadError(f"{directory}/libtensorflow_cc.so.2 does not export TF_SessionRun")

    old = TensorFlowRuntime(find=lambda: "/site/tensorflow", open_runtime=open_runtime)
    with pytest.raises(
        LoadError, match=r"/site/tensorflow cannot be used: .*TF_SessionRun"
    ) as info:
        old.get()
    assert "pip install tensorflow-cpu" in info.value.message


INDEX, ONE_SHARD = "variables/variables.index", "variables/variables.data-00000-of-00001"
TWO_SHARDS = [f"variables/variables.data-0000{number}-of-00002" for number in (0, 1)]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("graph", "files", "is_complete"),
    [
        (None, [INDEX, ONE_SHARD], False),
        ("constant", [], True),
        ("constant", ["variables/"], True),
        ("constant", [INDEX], False),
        ("constant", [ONE_SHARD], False),
        ("constant", [INDEX, TWO_SHARDS[0]], False),
        ("constant", [INDEX, *TWO_SHARDS], True),
        ("saver", [], False),
        ("saver", ["variables/"], False),
        ("saver", [ONE_SHARD], False),
        ("saver", [INDEX], False),
        ("saver", [INDEX, ONE_SHARD], True),
        ("variable", [], False),
        ("variable", ["variables/"], False),
        ("variable", [INDEX, ONE_SHARD], True),
        ("table", [], False),
        ("registered", [], False),
        ("objects", [], True),
        ("objects", [INDEX, ONE_SHARD], True),
        ("asset", [], False),
        ("asset", ["assets/"], False),
        ("asset", ["assets/other.txt"], False),
        ("asset", ["assets/words.txt"], True),
        ("half", [INDEX, ONE_SHARD], False),
        ("", [], False),
    ],
)
def test_a_saved_model_is_complete_when_all_its_files_are_there(
    tmp_path: Path, graph: str | None, files: list[str], is_complete: bool, text: bool
) -> None:
    if graph is not None:
        content = graph_bytes(graph, text=text)
        (tmp_path / ("saved_model.pbtxt" if text else "saved_model.pb")).write_bytes(content)
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        if file.endswith("/"):
            path.mkdir()
        else:
            path.touch()
    assert is_saved_model(str(tmp_path)) is is_complete


def graph_bytes(kind: str, *, text: bool) -> bytes:
    """The relevant parts of a graph in TensorFlow's encoding."""
    view: Any = new_message("servable.SavedModelView")
    graph = view.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    graph.graph_def.node.add(name="n" * 1000)
    if kind != "constant":
        graph.saver_def.filename_tensor_name = "saver_filename:0"
    if kind in ("variable", "table", "registered", "objects", "half"):
        graph.object_graph_def.nodes.add()
        node = graph.object_graph_def.nodes.add()
        if kind == "variable":
            node.variable.SetInParent()
        elif kind == "table":
            node.saveable_objects["table"].SetInParent()
        elif kind == "registered":
            node.registered_saver.SetInParent()
    if kind == "asset":
        graph.ClearField("saver_def")
        graph.asset_file_def.add(filename="words.txt")
    content = text_format.MessageToString(view).encode() if text else view.SerializeToString()
    return content[: {"half": 1020, "": 0}.get(kind, len(content))]


def test_a_graph_without_its_variables_is_not_loaded(tmp_path: Path) -> None:
    tensorflow = FakeTensorFlow()
    (tmp_path / "saved_model.pb").write_bytes(graph_bytes("saver", text=False))
    loader = SavedModelLoader(str(tmp_path), runtime(tensorflow), SavedModelOptions())
    with pytest.raises(LoadError, match=r"has no variables/variables\.index, from which") as info:
        loader.load()
    assert info.value.code is Code.NOT_FOUND
    assert tensorflow.loaded == []
    (tmp_path / "variables").mkdir()
    (tmp_path / INDEX).touch()
    loader.load()
    assert tensorflow.loaded != []


def test_a_version_that_may_not_be_read_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    tensorflow = FakeTensorFlow()
    loader = SavedModelLoader("/models/m/1", runtime(tensorflow), SavedModelOptions())
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        with pytest.raises(LoadError, match="/models/m/1 may not be read") as info:
            loader.load()
    assert info.value.code is Code.PERMISSION_DENIED
    assert tensorflow.loaded == []
