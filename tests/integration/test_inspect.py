"""`servable inspect`: its printed commands work when they are pasted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from servable.client import Client
from support import models
from support.server_process import COMMAND, ServerProcess, StartServer

CURL = re.compile(r"^    ((?:curl|python3) .*(?:\n      curl .*)?)$", re.MULTILINE)
PYTHON = re.compile(r"As Python:\n\n((?:    .*\n|\n)+)")

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


def inspect(*arguments: str) -> str:
    """The output of the command."""
    result = subprocess.run(
        [COMMAND, "inspect", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def paste(command: str) -> object:
    """The JSON answer to a pasted command."""
    # The command calls python3, which here must be the interpreter of the tests.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl -sS ")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    return json.loads(result.stdout)


@needs_curl
@pytest.mark.parametrize(
    "model",
    "turtle3 half_plus_two half_plus_two_tf2 multiple product linear words steps large".split(),
)
def test_every_curl_command_works(
    model: str, server: ServerProcess, demo_models: Path, runtime_models: Path
) -> None:
    root = demo_models if (demo_models / model).is_dir() else runtime_models
    url = f"http://127.0.0.1:{server.rest_port}"
    shown = inspect(str(root / model), f"--url={url}")
    commands = CURL.findall(shown)
    assert len(commands) == shown.count("\nSignature ") > 0
    for command in commands:
        answer = paste(command)
        assert isinstance(answer, dict)
        assert answer.keys() & {"outputs", "results"}, (command, answer)


@pytest.mark.parametrize("model", ["half_plus_two", "words", "counter", "turtle3", "dtypes"])
def test_every_program_works(
    model: str, server: ServerProcess, demo_models: Path, runtime_models: Path
) -> None:
    root = demo_models if (demo_models / model).is_dir() else runtime_models
    shown = inspect(str(root / model), f"--url=http://127.0.0.1:{server.port}")
    programs = [textwrap.dedent(program) for program in PYTHON.findall(shown)]
    assert len(programs) == shown.count("\nSignature ") > 0
    for program in programs if model != "dtypes" else programs[:2]:
        run_program(program)


def test_a_program_for_rest_works(server: ServerProcess) -> None:
    pytest.importorskip("httpx", reason="the client's package for REST")
    (program,) = PYTHON.findall(inspect(f"http://127.0.0.1:{server.rest_port}", "words"))
    assert "Client('http://" in program
    run_program(textwrap.dedent(program))


def run_program(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, (program, result.stderr)
    assert result.stdout.strip()


def test_a_directory_and_a_server_say_the_same(server: ServerProcess, runtime_models: Path) -> None:
    url = f"http://127.0.0.1:{server.rest_port}"
    path = runtime_models / "multiple/1"
    from_files = inspect(str(path), f"--url={url}")
    from_server = inspect(f"{url}/v1/models/multiple")
    assert from_files.splitlines()[:2] == ["Model multiple, version 1", f"in {path}"]
    assert from_server.splitlines()[:2] == ["Model multiple, version 1", f"in {url}"]
    # Only for our own servers is it known that the port accepts gRPC, too.
    with_url = from_files.replace(f"Client('{url.partition('//')[2]}", f"Client('{url}")
    assert with_url.splitlines()[2:] == from_server.splitlines()[2:]
    assert "words    bytes [?, ?]" in from_files


def test_values_that_json_does_not_have_are_for_grpc(runtime_models: Path) -> None:
    shown = inspect(str(runtime_models / "dtypes"))
    half = shown.partition("Signature float16 ")[2].partition("Signature ")[0]
    assert "# JSON has no values of these dtypes; use gRPC" in half
    assert "with Client('localhost:8500') as client:" in half


def test_a_model_in_python_is_imported() -> None:
    models = Path(__file__).parents[1] / "testdata/python_models"
    shown = inspect(str(models / "echo"), "renamed")
    assert shown.startswith("Model renamed, version 1\n")
    assert "/v1/models/renamed:predict" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/nowhere"], "/nowhere: No such file or directory"),
        (["http://127.0.0.1:1"], "Name the model: servable inspect http://127.0.0.1:1 MODEL"),
        (["http://127.0.0.1:1", "m"], "UNAVAILABLE: http://127.0.0.1:1/v1/models/m/metadata: "),
    ],
)
def test_models_that_cannot_be_inspected_get_an_explanation(
    arguments: list[str], text: str
) -> None:
    result = subprocess.run(
        [COMMAND, "inspect", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_that_the_server_lacks_is_explained(server: ServerProcess) -> None:
    result = subprocess.run(
        [COMMAND, "inspect", f"http://127.0.0.1:{server.rest_port}", "nonsense"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "NOT_FOUND: " in result.stderr
    assert "nonsense" in result.stderr


def test_tags_that_a_model_does_not_have_are_explained(demo_models: Path) -> None:
    result = subprocess.run(
        [COMMAND, "inspect", str(demo_models / "turtle3"), "--saved_model_tags=gpu"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "matching supplied tags: { gpu }; " in result.stderr
    assert "has { serve }" in result.stderr


def test_the_tensors_of_ragged_and_sparse_outputs_are_named_by_everything_that_describes_a_model(
    model_cache: Path, start_server: StartServer
) -> None:
    base_path = models.exported(models.BATCH_EXPORT, model_cache) / "composite"
    parts = {
        "ragged.flat_values": "int64 [?] (of ragged ragged)",
        "ragged.row_splits": "int64 [?] (of ragged ragged)",
        "sparse.dense_shape": "int64 [2] (of sparse sparse)",
        "sparse.indices": "int64 [?, 2] (of sparse sparse)",
        "sparse.values": "float32 [?] (of sparse sparse)",
    }
    result = subprocess.run(
        [COMMAND, "check", f"--model_base_path={base_path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert ", ".join(f"{name}: {tensor}" for name, tensor in parts.items()) in result
    server = start_server({"composite": base_path})
    server.wait_until_available("composite")
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/composite"
    for described in (inspect(str(base_path)), inspect(url)):
        rows = [line.split(None, 1) for line in described.splitlines()]
        assert {row[0]: row[1] for row in rows if len(row) == 2}.items() >= parts.items()
    outputs = server.get("/v2/models/composite").json()["outputs"]
    names = [*parts, "y"]
    assert [output["name"] for output in outputs] == names
    with Client(f"http://127.0.0.1:{server.rest_port}") as client:
        assert sorted(client.metadata("composite").signature().outputs) == names
    with Client(f"127.0.0.1:{server.port}") as client:
        assert sorted(client.metadata("composite").signature().outputs) == names
        found = client.predict("composite", {"x": [1.0, 2.0]}, outputs=["ragged.row_splits"])
        assert found["ragged.row_splits"].tolist() == [0, 1, 3]
