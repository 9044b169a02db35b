"""The command line: flags, environment variables, and messages about missing arguments."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import servable
from support.server_process import COMMAND, ServerProcess, free_port, model_config

SECOND_NAME = str(Path(COMMAND).with_name("tensorflow_model_server"))


def run(*arguments: str, command: str = COMMAND) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; standard error is merged into standard output."""
    return subprocess.run(
        [command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", [COMMAND, SECOND_NAME])
def test_both_names_serve_one_model(command: str, demo_models: Path, tmp_path: Path) -> None:
    flags = ["--model_name=turtle3", f"--model_base_path={demo_models / 'turtle3'}"]
    with ServerProcess(flags, directory=tmp_path, command=[command]) as server:
        server.wait_until_available("turtle3")
        assert f"Running gRPC ModelServer at 0.0.0.0:{server.port} ..." in server.log
        assert f"Exporting HTTP/REST API at:localhost:{server.rest_port} ..." in server.log


def test_one_port_may_be_both(demo_models: Path, tmp_path: Path) -> None:
    flags = ["--model_name=turtle3", f"--model_base_path={demo_models / 'turtle3'}"]
    port = free_port()
    with ServerProcess(
        [*flags, f"--port={port}", f"--rest_api_port={port}"], directory=tmp_path
    ) as server:
        server.rest_port = port
        server.wait_until_available("turtle3")


@pytest.mark.parametrize("port_flag", ["--port=0", "--rest_api_port=0"])
def test_one_port_is_enough(port_flag: str, demo_models: Path, tmp_path: Path) -> None:
    flags = ["--model_name=turtle3", f"--model_base_path={demo_models / 'turtle3'}"]
    with ServerProcess([*flags, port_flag], directory=tmp_path) as server:
        if port_flag == "--rest_api_port=0":
            server.rest_port = server.port
        server.wait_until_available("turtle3")


def test_the_environment_names_the_model(demo_models: Path, tmp_path: Path) -> None:
    environment = {"MODEL_NAME": "turtle5", "MODEL_BASE_PATH": str(demo_models)}
    with ServerProcess([], directory=tmp_path, environment=environment) as server:
        server.wait_until_available("turtle5")


def test_flags_win_over_the_environment(demo_models: Path, tmp_path: Path) -> None:
    environment = {"MODEL_NAME": "turtle5", "MODEL_BASE_PATH": str(demo_models)}
    flags = ["--model_name=turtle3", f"--model_base_path={demo_models / 'turtle3'}"]
    with ServerProcess(flags, directory=tmp_path, environment=environment) as server:
        server.wait_until_available("turtle3")
        assert server.get("/v1/models/turtle5").status == 404


def test_the_version_is_reported() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith(f"servable {servable.__version__}")
    result = run("--version", command=SECOND_NAME)
    assert result.returncode == 0
    assert result.stdout.startswith("TensorFlow ModelServer: ")
    assert "TensorFlow Library: " in result.stdout


def test_help_lists_the_flags() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "--model_base_path=TEXT" in result.stdout
    result = run("--help", command=SECOND_NAME)
    assert result.returncode == 255
    for flag in ("--port=8500", "--rest_api_port=0", "--model_base_path=", "--model_config_file="):
        assert flag in result.stdout


def test_an_unknown_flag_does_not_stop_the_server_under_the_name_of_tensorflow_serving(
    demo_models: Path, tmp_path: Path
) -> None:
    flags = [
        "--model_name=turtle3",
        f"--model_base_path={demo_models / 'turtle3'}",
        "--no_such_flag=1",
    ]
    with ServerProcess(flags, directory=tmp_path, command=[SECOND_NAME]) as server:
        server.wait_until_available("turtle3")
        assert "unknown argument: --no_such_flag=1" in server.log
    result = run(*flags)
    assert result.returncode == 2
    assert "unknown argument: --no_such_flag=1" in result.stdout


@pytest.mark.parametrize(
    ("flags", "message", "status"),
    [
        (["--model_base_path="], "are empty!", 255),
        (
            ["--model_name=m", "--model_base_path=relative/path"],
            "Expected model m to have an absolute path or URI; got base_path()=relative/path",
            255,
        ),
        (
            ["--port=0", "--model_base_path=/nowhere"],
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.",
            255,
        ),
        (["--model_config_file=/nowhere/models.config"], "/nowhere/models.config", 255),
        (["--port=many", "--model_base_path=/nowhere"], "many", 2),
        (["--port", "8500", "--model_base_path=/nowhere"], "--port", 2),
    ],
    ids=[
        "no model",
        "relative base path",
        "no port",
        "no configuration file",
        "not a number",
        "a flag without its value",
    ],
)
def test_a_wrong_command_line_is_explained(flags: list[str], message: str, status: int) -> None:
    """Mistakes end it with status 2 under its own name, which also accepts relative paths."""
    for command in (COMMAND, SECOND_NAME):
        if command == COMMAND and "relative/path" in message:
            continue
        result = run(*flags, command=command)
        assert result.returncode == (status if command == COMMAND else 255)
        assert message in result.stdout
        assert "Traceback" not in result.stdout


def test_two_models_of_one_name_are_refused(demo_models: Path, tmp_path: Path) -> None:
    one = model_config({"turtle3": demo_models / "turtle3"})
    config = tmp_path / "models.config"
    config.write_text(one.removesuffix("}\n") + one.removeprefix("model_config_list {\n"))
    result = run(f"--model_config_file={config}")
    assert result.returncode == 255
    assert "Illegal to list model turtle3 multiple times in config list" in result.stdout


def test_a_broken_configuration_file_is_explained(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list { config { nme: 'm' } }")
    result = run(f"--model_config_file={config}")
    assert result.returncode == 255
    assert f"Invalid protobuf file: '{config}'" in result.stdout
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in result.stdout


def test_a_taken_port_is_explained(server: ServerProcess, demo_models: Path) -> None:
    result = run(
        f"--port={server.port}",
        "--model_name=turtle3",
        f"--model_base_path={demo_models / 'turtle3'}",
    )
    assert result.returncode == 255
    assert "Failed to start server. Error:" in result.stdout
    assert str(server.port) in result.stdout


def test_without_tensorflow_the_command_says_what_to_install(
    demo_models: Path, tmp_path: Path
) -> None:
    """In a separate environment, with this package and protobuf but without TensorFlow."""
    import google.protobuf

    environment = tmp_path / "venv"
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "servable").symlink_to(Path(servable.__file__).parent)
    protobuf = Path(google.protobuf.__file__).parent.parent
    (site / "google").symlink_to(protobuf)
    result = subprocess.run(
        [
            *(str(environment / "bin/python"), "-c", "from servable.cli import main; main()"),
            *("--model_name=turtle3", f"--model_base_path={demo_models / 'turtle3'}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 255
    assert "pip install tensorflow-cpu" in result.stdout
    assert "Traceback" not in result.stdout


def test_the_server_never_imports_tensorflow(demo_models: Path, tmp_path: Path) -> None:
    flags = ["--model_name=turtle3", f"--model_base_path={demo_models / 'turtle3'}"]
    command = [sys.executable, "-X", "importtime", COMMAND]
    with ServerProcess(flags, directory=tmp_path, command=command) as server:
        server.wait_until_available("turtle3")
        imported = {line.split("|")[-1].strip() for line in server.log.splitlines()}
        assert "servable.cli" in imported
        assert not imported & {"tensorflow", "numpy", "grpc"}
