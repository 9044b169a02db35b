from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from servable import server as server_module
from servable.config.flags import Flags
from servable.config.server_options import ServerOptions
from servable.config.text_proto import new_message
from servable.errors import ConfigError, FailedPreconditionError, LoadError
from servable.gateway import PublishedModel
from servable.loaders import SavedModelLoader, TensorFlowRuntime
from servable.server import ModelServer
from servable.testing import FakeServable


class FakeRequestPath:
    """What the extension's `Server` is to the control plane."""

    def __init__(self, options: ServerOptions, reload_config: object, scrape: object) -> None:
        self.options = options
        self.models: dict[str, PublishedModel] = {}
        self.calls: list[str] = []
        self.changed = threading.Condition()

    def start(self) -> list[int]:
        self.calls.append("start")
        return [int(endpoint.address.rpartition(":")[2]) for endpoint in self.options.endpoints]

    def publish(self, models: Sequence[PublishedModel]) -> None:
        with self.changed:
            self.models.update({model.name: model for model in models})
            self.changed.notify_all()

    def shadow_statistics(self) -> dict[str, dict[str, int | str]]:
        return {}

    def drain(self, timeout_seconds: float) -> bool:
        self.calls.append(f"drain {timeout_seconds}")
        return True

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

    def make(
        options: ServerOptions, reload_config: object, scrape: object, repository: object
    ) -> FakeRequestPath:
        assert repository is None
        made.append(FakeRequestPath(options, reload_config, scrape))
        return made[-1]

    def load(loader: Any) -> None:
        if Path(loader._path, "broken").exists():
            raise LoadError("broken")
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
    (path / "saved_model.pb").touch()
    # As careful writers do when everything is there; see servable.sources.settling.
    os.utime(path, (1, 1))


def flags(tmp_path: Path, *versions: str, **changes: Any) -> Flags:
    for version in versions:
        write_version(tmp_path / "m" / version)
    options: dict[str, Any] = {"max_num_load_retries": 0, "drain_timeout_seconds": 3.0}
    return Flags(model_name="m", model_base_path=str(tmp_path / "m"), **{**options, **changes})


def test_ports_open_before_models_load_and_say_that_they_will(
    tmp_path: Path, request_path: list[FakeRequestPath]
) -> None:
    server = ModelServer(flags(tmp_path))
    server.start()
    (path,) = request_path
    assert path.calls == ["start"]
    assert path.models["m"].unavailable_reason is not None
    write_version(tmp_path / "m/1")
    path.wait_until_available("m")
    assert path.models["m"].unavailable_reason is None
    assert server.stop()
    assert path.calls == ["start", "drain 3.0"]
    (version,) = path.models["m"].versions
    assert (version.state, version.servable) == (50, None)


def test_the_lines_that_tools_wait_for_come_when_the_models_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_path: list[FakeRequestPath]
) -> None:
    caplog.set_level("INFO", "servable")
    server = ModelServer(flags(tmp_path, "1", rest_api_port=8501))
    ready = threading.Event()
    server._core.bus.subscribe(lambda event: event.state == 30 and ready.set())
    server.start()
    assert server.ports == (8500, 8501)
    assert ready.wait(10)
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


def empty_config(tmp_path: Path) -> Path:
    file = tmp_path / "models.config"
    file.write_text("model_config_list {}")
    return file


def test_what_is_wrong_is_found_before_a_port_is_opened(
    request_path: list[FakeRequestPath],
) -> None:
    with pytest.raises(ConfigError, match="absolute path"):
        ModelServer(Flags(model_base_path="relative"))
    assert request_path == []


def test_where_a_refused_label_is_in_the_configuration_file_is_written_down(
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
    server.reload_config(message.SerializeToString())
    assert any(version.servable for version in request_path[0].models["n"].versions)
    assert f"\nConfig entry\n\tindex : 0\n\tpath : {tmp_path / 'n'}\n\tname : n" in caplog.text
    with pytest.raises(ConfigError, match="Only ModelConfigList"):
        server.reload_config(b"")
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
