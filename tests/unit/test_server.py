from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from servable._server import server as server_module
from servable._server.border.control_plane import ControlPlane
from servable._server.border.gateway import PublishedModel
from servable._server.config.flags import Flags
from servable._server.config.server_options import ServerOptions
from servable._server.config.text_proto import new_message
from servable._server.server import ModelServer
from servable.errors import ConfigError, FailedPreconditionError, LoadError, ServableError
from servable.loaders import SavedModelLoader, TensorFlowRuntime
from servable.testing import FakeServable


class FakeRequestPath:
    """What the extension's `Server` is to the control plane."""

    def __init__(self, options: ServerOptions, control_plane: ControlPlane) -> None:
        self.control_plane = control_plane
        self.options = options
        self.models: dict[str, PublishedModel] = {}
        self.calls: list[str] = []
        self.changed = threading.Condition()

    def start(self) -> list[int]:
        self.calls.append("start")
        return [int(endpoint.address.rpartition(":")[2]) for endpoint in self.options.endpoints]

    def open(self) -> None:
        with self.changed:
            self.calls.append("open")
            self.changed.notify_all()

    def publish(self, models: Sequence[PublishedModel]) -> None:
        with self.changed:
            self.models.update({model.name: model for model in models})
            self.changed.notify_all()

    def shadow_statistics(self) -> dict[str, dict[str, int | str]]:
        return {}

    def drain(self, timeout_seconds: float) -> bool:
        self.calls.append(f"drain {timeout_seconds}")
        return True

    def wait_until_open(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: "open" in self.calls, 10)

    def wait_until_available(self, name: str) -> None:
        with self.changed:
            assert self.changed.wait_for(
                lambda: any(v.servable for v in self.models[name].versions), 10
            )


class FakeModel(FakeServable):
    """What TensorFlow is not there to load."""

    def leave_unbatched(self, reason: str) -> None:
        assert "--enable_batching" in reason


@pytest.fixture(autouse=True)
def request_path(monkeypatch: pytest.MonkeyPatch) -> list[FakeRequestPath]:
    """Neither sockets nor TensorFlow."""
    made: list[FakeRequestPath] = []

    def make(options: ServerOptions, control_plane: ControlPlane) -> FakeRequestPath:
        made.append(FakeRequestPath(options, control_plane))
        return made[-1]

    def load(loader: Any) -> None:
        if Path(loader._path, "broken").exists():
            raise LoadError("broken")
        while Path(loader._path, "slow").exists():
            time.sleep(0.01)
        loader._servable = FakeModel()

    def unload(loader: Any) -> None:
        loader._servable = None

    monkeypatch.setattr(server_module, "Server", make)
    monkeypatch.setattr(TensorFlowRuntime, "require_installed", lambda runtime: None)
    monkeypatch.setattr(SavedModelLoader, "load", load)
    monkeypatch.setattr(SavedModelLoader, "unload", unload)
    return made


def write_version(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"\x12\x00")  # a SavedModel with an empty meta graph
    seal(path)


def seal(path: Path) -> None:
    """Finish a version as careful writers do; see servable.sources._settling."""
    os.utime(path, (1, 1))


def flags(tmp_path: Path, *versions: str, **changes: Any) -> Flags:
    for version in versions:
        write_version(tmp_path / "m" / version)
    options: dict[str, Any] = {"max_num_load_retries": 0, "drain_timeout_seconds": 3.0}
    return Flags(model_name="m", model_base_path=str(tmp_path / "m"), **{**options, **changes})


def test_ports_may_open_before_models_load_and_say_that_they_will(
    tmp_path: Path, request_path: list[FakeRequestPath]
) -> None:
    server = ModelServer(flags(tmp_path, open_ports="at_once"))
    server.start()
    (path,) = request_path
    assert path.calls == ["start", "open"]
    assert path.models["m"].unavailable_reason is not None
    write_version(tmp_path / "m/1")
    path.wait_until_available("m")
    assert path.models["m"].unavailable_reason is None
    assert server.stop()
    assert path.calls == ["start", "open", "drain 3.0"]
    (version,) = path.models["m"].versions
    assert (version.state, version.servable) == (50, None)


def test_ports_open_when_every_model_has_its_first_version(
    tmp_path: Path, request_path: list[FakeRequestPath]
) -> None:
    file = config_of(tmp_path, "quick", "slow")
    marker = tmp_path / "slow/1/slow"
    marker.touch()
    seal(marker.parent)
    server = ModelServer(Flags(model_config_file=str(file)))
    (path,) = request_path
    starting = threading.Thread(target=server.start)
    starting.start()
    path.wait_until_available("quick")
    assert path.calls == ["start"]
    marker.unlink()
    path.wait_until_open()
    assert any(version.servable for version in path.models["slow"].versions)
    starting.join()
    server.stop()


def test_ports_wait_neither_for_retries_nor_for_versions_that_are_not_there(
    tmp_path: Path, request_path: list[FakeRequestPath]
) -> None:
    """The first retry would come after a minute."""
    file = config_of(tmp_path, "m", "broken", "empty", "missing")
    (tmp_path / "broken/1/broken").touch()
    seal(tmp_path / "broken/1")
    shutil.rmtree(tmp_path / "empty/1")
    shutil.rmtree(tmp_path / "missing")
    server = ModelServer(Flags(model_config_file=str(file)))
    server.start()
    assert request_path[0].calls == ["start", "open"]
    server.stop()


def test_ports_do_not_open_where_every_model_has_failed_for_good(
    tmp_path: Path, request_path: list[FakeRequestPath]
) -> None:
    write_version(tmp_path / "m/1")
    (tmp_path / "m/1/broken").touch()
    seal(tmp_path / "m/1")
    server = ModelServer(flags(tmp_path))
    with pytest.raises(
        ServableError, match=r"^1 servable\(s\) did not become available: \{\{\{name"
    ):
        server.start()
    server.stop()
    assert "open" not in request_path[0].calls


def test_ports_do_not_wait_for_a_model_that_is_taken_away(
    tmp_path: Path, request_path: list[FakeRequestPath]
) -> None:
    file = config_of(tmp_path, "m", "slow")
    marker = tmp_path / "slow/1/slow"
    marker.touch()
    seal(marker.parent)
    server = ModelServer(Flags(model_config_file=str(file)))
    starting = threading.Thread(target=server.start)
    starting.start()
    request_path[0].wait_until_available("m")
    server._core.reload([model for model in server._core.models if model.name == "m"])
    request_path[0].wait_until_open()
    marker.unlink()
    starting.join()
    server.stop()


def test_a_start_that_waits_for_its_models_can_be_stopped(
    tmp_path: Path, request_path: list[FakeRequestPath]
) -> None:
    write_version(tmp_path / "m/1")
    marker = tmp_path / "m/1/slow"
    marker.touch()
    seal(marker.parent)
    server = ModelServer(flags(tmp_path))
    starting = threading.Thread(target=server.start)
    starting.start()
    (path,) = request_path
    with path.changed:
        assert path.changed.wait_for(lambda: "m" in path.models and path.models["m"].versions, 10)
    threading.Timer(0.5, marker.unlink).start()
    server.stop()
    starting.join(10)
    assert not starting.is_alive()
    assert "open" not in request_path[0].calls


def test_the_lines_that_tools_wait_for_come_when_the_models_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_path: list[FakeRequestPath]
) -> None:
    caplog.set_level("INFO", "servable")
    server = ModelServer(flags(tmp_path, "1", rest_api_port=8501))
    server.start()
    assert server.ports == (8500, 8501)
    server.stop()
    assert "Building single TensorFlow model file config:  model_name: m" in caplog.text
    assert "Running gRPC ModelServer at 0.0.0.0:8500 ..." in caplog.text
    assert "Exporting HTTP/REST API at:localhost:8501 ..." in caplog.text
    assert "Successfully loaded servable version {name: m version: 1}" in caplog.text


def test_equal_ports_are_one_port_for_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_path: list[FakeRequestPath]
) -> None:
    caplog.set_level("INFO", "servable")
    server = ModelServer(Flags(model_config_file=str(empty_config(tmp_path)), rest_api_port=8500))
    server.start()
    server.stop()
    assert [e.address for e in request_path[0].options.endpoints] == ["0.0.0.0:8500"]
    assert "one port serves REST and gRPC" in caplog.text
    assert "Exporting HTTP/REST API at:localhost:8500 ..." in caplog.text


def config_of(tmp_path: Path, *names: str) -> Path:
    """A configuration file of models that have a version each."""
    entries = []
    for name in names:
        write_version(tmp_path / name / "1")
        entries.append(
            f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "tensorflow" }}'
        )
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    return file


def empty_config(tmp_path: Path) -> Path:
    file = tmp_path / "models.config"
    file.write_text("model_config_list {}")
    return file


def test_errors_are_found_before_a_port_is_opened(
    request_path: list[FakeRequestPath],
) -> None:
    with pytest.raises(ConfigError, match="absolute path"):
        ModelServer(Flags(model_base_path="relative"))
    assert request_path == []


def test_the_line_of_a_refused_label_is_written_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request_path: list[FakeRequestPath]
) -> None:
    def entry(name: str, *labels: str) -> str:
        write_version(tmp_path / name / "1")
        base_path, platform = f'base_path: "{tmp_path / name}"', 'model_platform: "tensorflow"'
        return f'  config {{ name: "{name}" {base_path} {platform} {" ".join(labels)} }}\n'

    label = 'version_labels { key: "stable" value: 1 }'
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{\n{entry('m')}{entry('n', label)}}}\n")
    server = ModelServer(Flags(model_config_file=str(file)))
    refused = "Request to assign label to version 1 of model n, which is not currently available"
    with pytest.raises(FailedPreconditionError, match=f"^{refused} for inference$"):
        server.start()
    assert capsys.readouterr().err == f"{file}:3: {refused} for inference\n"
    server.stop()


def test_a_reload_request_is_carried_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_path: list[FakeRequestPath]
) -> None:
    caplog.set_level("INFO", "servable")
    server = ModelServer(flags(tmp_path, "1"))
    server.start()
    write_version(tmp_path / "n/7")
    message: Any = new_message("tensorflow.serving.ModelServerConfig")
    entry = message.model_config_list.config.add()
    entry.name, entry.base_path, entry.model_platform = "n", str(tmp_path / "n"), "tensorflow"
    control_plane = request_path[0].control_plane
    control_plane.reload_config(message.SerializeToString(), lambda: False)
    assert any(version.servable for version in request_path[0].models["n"].versions)
    assert f"\nConfig entry\n\tindex : 0\n\tpath : {tmp_path / 'n'}\n\tname : n" in caplog.text
    with pytest.raises(ConfigError, match="Only ModelConfigList"):
        control_plane.reload_config(b"", lambda: False)
    assert "ReloadConfig failed: ServerModelConfig type not supported" in caplog.text
    server.stop()


def test_the_configuration_file_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_path: list[FakeRequestPath]
) -> None:
    file = empty_config(tmp_path)
    write_version(tmp_path / "m/1")
    server = ModelServer(
        Flags(model_config_file=str(file), model_config_file_poll_wait_seconds=3600)
    )
    # The first look comes right after the start.
    file.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/m" '
        'model_platform: "tensorflow" } }'
    )
    server.start()
    path = request_path[0]
    with path.changed:
        assert path.changed.wait_for(lambda: "m" in path.models, 10)
    path.wait_until_available("m")
    server.stop()
