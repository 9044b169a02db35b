"""The output of a first start of `servable`, and the differences from the name of TensorFlow Serving."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.metrics_page import monitoring_flag, scrape
from support.models import add_version
from support.server_process import COMMAND, ServerProcess, model_config

SECOND_NAME = str(Path(COMMAND).with_name("tensorflow_model_server"))


def wait_for(server: ServerProcess, text: str) -> str:
    """Wait until the server has written a text, and return all its output."""
    end = time.monotonic() + 60
    while text not in server.log:
        assert server.is_running, server.log
        assert time.monotonic() < end, server.log
        time.sleep(0.02)
    return server.log


def report_of(server: ServerProcess) -> list[str]:
    """The lines of the report, without the margin."""
    lines = wait_for(server, "Try it from another terminal").splitlines()
    while lines[-1] != "":  # the report ends with an empty line
        time.sleep(0.02)
        lines = server.log.splitlines()
    (first,) = [i for i, line in enumerate(lines) if " models serve after " in line]
    return [line.strip() for line in lines[first:-1]]


@pytest.mark.parametrize(
    ("model", "open_ports"),
    [("half_plus_two", "when_loaded"), ("turtle3", "when_loaded"), ("turtle3", "at_once")],
)
def test_a_start_ends_with_a_report_whose_request_works(
    model: str, open_ports: str, demo_models: Path, tmp_path: Path
) -> None:
    flags = [
        f"--model_name={model}",
        f"--model_base_path={demo_models / model}",
        f"--open_ports={open_ports}",
    ]
    with ServerProcess(flags, directory=tmp_path) as server:
        first, version, rest, grpc, _, *request = report_of(server)
        assert first.startswith("1 of 1 models serve after ")
        assert version == f"{model} (tensorflow): version 1"
        assert rest == f"REST: http://localhost:{server.rest_port}"
        assert grpc == f"gRPC: localhost:{server.port}"
        answer = subprocess.run(
            ["bash", "-c", "set -o pipefail; " + "\n".join(request)],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert json.loads(answer.stdout).keys() == {"outputs"}


def test_the_report_names_what_does_not_serve(demo_models: Path, tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        model_config({"m": demo_models / "half_plus_two", "missing": tmp_path / "missing"})
    )
    with ServerProcess([f"--model_config_file={config}"], directory=tmp_path) as server:
        first, missing, *_ = report_of(server)
        assert first.startswith("1 of 2 models serve after ")
        assert missing.startswith("missing (tensorflow): Could not find base path ")


def test_the_name_of_tensorflow_serving_reports_nothing(demo_models: Path, tmp_path: Path) -> None:
    flags = ["--model_name=m", f"--model_base_path={demo_models / 'half_plus_two'}"]
    with ServerProcess(flags, directory=tmp_path, command=[SECOND_NAME]) as server:
        wait_for(server, "Exporting HTTP/REST API at:localhost:")
        server.process.send_signal(signal.SIGHUP)
        assert server.wait() == -signal.SIGHUP
        assert "models serve after" not in server.log


@pytest.fixture
def model_directory(half_plus_two_version: Path, tmp_path: Path) -> Iterator[Path]:
    """`models/m` with a version, and a configuration file that names it by a relative path."""
    (tmp_path / "models/m").mkdir(parents=True)
    add_version(tmp_path / "models/m", 1, half_plus_two_version, offset=2.0)
    (tmp_path / "models/models.config").write_text(model_config({"m": Path("m")}))
    yield tmp_path
    shutil.rmtree(tmp_path / "models")


@pytest.mark.parametrize(
    "flags",
    [
        ["--model_name=m", "--model_base_path=models/m"],
        ["--model_name=m", "--model_base_path=./models/../models/m/"],
        ["--model_name=m", "--model_base_path=~/models/m"],
        ["--model_config_file=models/models.config"],
        ["--model_config_file=~/models/models.config"],
    ],
)
def test_paths_may_be_relative_or_begin_at_home(
    model_directory: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_directory)
    monkeypatch.setenv("HOME", str(model_directory))
    result = subprocess.run(
        [COMMAND, "check", *flags], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.endswith("\n0 errors, 0 warnings\n")
    with ServerProcess(flags, directory=model_directory) as server:
        server.wait_until_available("m")
    refused = subprocess.run(
        [SECOND_NAME, "--port=0", "--rest_api_port=1", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 255


def test_hanging_up_has_the_configuration_read_again(
    model_directory: Path, half_plus_two_version: Path
) -> None:
    config = model_directory / "models/models.config"
    flags = [f"--model_config_file={config}", "--admin_api_port=0"]
    with ServerProcess(flags, directory=model_directory) as server:
        server.wait_until_available("m")
        (model_directory / "models/n").mkdir()
        add_version(model_directory / "models/n", 7, half_plus_two_version, offset=3.0)
        config.write_text(model_config({"m": Path("m"), "n": Path("n")}))
        server.process.send_signal(signal.SIGHUP)
        server.wait_until_available("n")
        assert server.predict("m", {"instances": [2.0]}).json() == {"predictions": [3.0]}
        config.write_text("model_config_list {")
        server.process.send_signal(signal.SIGHUP)
        wait_for(server, "Failed to read ModelServerConfig file")
        assert server.predict("n", {"instances": [2.0]}).json() == {"predictions": [4.0]}
        server.terminate()
        assert server.wait() == 0


def test_the_report_of_the_start_is_not_counted_as_a_request(
    demo_models: Path, tmp_path: Path
) -> None:
    flags = [f"--model_base_path={demo_models / 'turtle3'}", "--model_name=turtle3"]
    with ServerProcess([*flags, monitoring_flag(tmp_path)], directory=tmp_path) as server:
        wait_for(server, "Try it from another terminal")
        assert scrape(server).get(":tensorflow:serving:request_count", {}) == {}
