"""When ports open: the guarantees for scripts, probes and tests that wait for a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient
from support.models import add_corrupt_version
from support.server_process import ServerProcess, free_port, model_config

# Exports a version of a Keras model or of a module, as TensorFlow Serving's own tests do in their processes.
SAVE = """
import sys
import keras
import tensorflow as tf

class Doubler(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": 2.0 * x}

inputs = keras.Input((2,), name="x")
outputs = keras.layers.Dense(1, kernel_initializer="ones", bias_initializer="ones", name="y")(inputs)
models = {"keras": keras.Model(inputs, outputs), "module": Doubler()}
while line := sys.stdin.readline():
    kind, path = line.split(maxsplit=1)
    if kind == "keras":
        models[kind].export(path.strip(), verbose=False)
    else:
        tf.saved_model.save(models[kind], path.strip())
    print("saved", flush=True)
"""

SLOW_MODEL = """
import pathlib
import time

from servable.signature import TensorSpec, serves

while pathlib.Path(__file__).parents[1].joinpath("slow").exists():
    time.sleep(0.02)


@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def predict(inputs):
    return {"y": 2 * inputs["x"]}
"""


SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"

Save = Callable[[str, Path], None]


@pytest.fixture(scope="module")
def save() -> Iterator[Save]:
    """Exports a version from a process that has imported TensorFlow: `save("keras", path)`."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(kind: str, path: Path) -> None:
        stdin.write(f"{kind} {path}\n")
        stdin.flush()
        assert stdout.readline() == "saved\n"

    yield ask
    process.communicate(timeout=30)


def is_open(port: int) -> bool:
    """Whether a connection is accepted."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_port(server: ServerProcess, port: int) -> None:
    """Wait in the way of scripts that only know the port."""
    end = time.monotonic() + 60
    while not is_open(port):
        assert server.is_running, server.log
        assert time.monotonic() < end, server.log
        time.sleep(0.01)


def wait_for_line(server: ServerProcess, text: str) -> None:
    """Wait in the way of scripts that only read the log."""
    end = time.monotonic() + 60
    while text not in server.log:
        assert server.is_running, server.log
        assert time.monotonic() < end, server.log
        time.sleep(0.01)


def health_over_grpc(client: GrpcClient, port: int) -> bytes:
    """A serialized `HealthCheckResponse` about the server."""
    answer: bytes = client.call("call_raw", port, "Check", b"", service="/grpc.health.v1.Health")
    return answer


def slow_model(directory: Path) -> tuple[list[str], Path]:
    """Flags for a model whose load blocks until a file is removed, and that file."""
    version = directory / "slow/1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOW_MODEL)
    marker = directory / "slow/slow"
    marker.touch()
    config = directory / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "slow" base_path: "{version.parent}" '
        'model_platform: "python" } }'
    )
    return [f"--model_config_file={config}"], marker


@pytest.mark.parametrize("kind", ["keras", "module"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_model_saved_just_now_answers_the_first_call_after_the_port_opens(
    save: Save, tmp_path: Path, grpc_client: GrpcClient, kind: str, protocol: str
) -> None:
    save(kind, tmp_path / "m/1")
    flags = ["--model_name=m", f"--model_base_path={tmp_path / 'm'}"]
    with ServerProcess(flags, directory=tmp_path) as server:
        rows, expected = ([[1.0, 2.0]], [[4.0]]) if kind == "keras" else ([1.0, 2.0], [2.0, 4.0])
        if protocol == "grpc":
            wait_for_port(server, server.port)
            reply = grpc_client.predict(server.port, "m", {"x": np.array(rows, np.float32)})
            (output,) = reply["outputs"].values()
            assert output.tolist() == expected
        else:
            wait_for_port(server, server.rest_port)
            assert server.predict("m", {"instances": rows}).json() == {"predictions": expected}


def test_nothing_but_health_checks_is_answered_until_the_models_are_loaded(
    tmp_path: Path, grpc_client: GrpcClient
) -> None:
    flags, marker = slow_model(tmp_path)
    health, admin = free_port(), free_port()
    sockets = [tmp_path / "grpc.sock", tmp_path / "rest.sock"]
    flags += [f"--health_port={health}", f"--admin_api_port={admin}"]
    flags += [f"--grpc_socket_path={sockets[0]}", f"--rest_api_socket_path={sockets[1]}"]
    with ServerProcess(flags, directory=tmp_path) as server:
        wait_for_port(server, health)
        assert server.get("/healthz", port=health).status == 200
        unready = server.get("/readyz", port=health)
        assert unready.status == 503
        assert b"slow" in unready.body
        assert server.get("/v2/health/live", port=health).status == 200
        assert health_over_grpc(grpc_client, health) == NOT_SERVING
        assert server.get("/v1/models/slow", port=health).status == 404
        wait_for_port(server, admin)
        wait_for_line(server, "Loading servable version {name: slow version: 1}")
        assert not is_open(server.port)
        assert not is_open(server.rest_port)
        for path in sockets:
            with socket.socket(socket.AF_UNIX) as probe:
                assert probe.connect_ex(str(path)) != 0
        assert "Running gRPC ModelServer" not in server.log
        assert "Exporting HTTP/REST API" not in server.log
        marker.unlink()
        wait_for_line(server, f"Exporting HTTP/REST API at:localhost:{server.rest_port} ...")
        assert f"Running gRPC ModelServer at 0.0.0.0:{server.port} ..." in server.log
        assert f"Running gRPC ModelServer at UNIX socket {sockets[0]} ..." in server.log
        assert server.predict("slow", {"instances": [1.0]}).json() == {"predictions": [2.0]}
        assert server.get("/readyz", port=health).status == 200
        assert health_over_grpc(grpc_client, health) == SERVING
        for path in sockets:
            with socket.socket(socket.AF_UNIX) as probe:
                assert probe.connect_ex(str(path)) == 0
        server.terminate()
        assert server.wait() == 0


def test_ports_open_at_once_where_that_is_wanted(tmp_path: Path) -> None:
    flags, _ = slow_model(tmp_path)
    with ServerProcess([*flags, "--open_ports=at_once"], directory=tmp_path) as server:
        wait_for_port(server, server.rest_port)
        reply = server.predict("slow", {"instances": [1.0]})
        assert reply.status == 503
        assert "Model slow is not available yet" in reply.error


@pytest.mark.parametrize("when", ["at once", "while it loads"])
def test_a_start_that_is_not_done_is_ended_cleanly(tmp_path: Path, when: str) -> None:
    flags, _ = slow_model(tmp_path)
    with ServerProcess([*flags, "--drain_timeout_seconds=1"], directory=tmp_path) as server:
        if when == "while it loads":
            wait_for_line(server, "Loading servable version {name: slow version: 1}")
        else:
            wait_for_line(server, "Adding/updating models.")
        server.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_ports_do_not_wait_for_retries(demo_models: Path, tmp_path: Path) -> None:
    """By default the first retry would be after a minute."""
    add_corrupt_version(tmp_path / "broken", 1)
    config = tmp_path / "models.config"
    entries = {"broken": tmp_path / "broken", "half_plus_two": demo_models / "half_plus_two"}
    config.write_text(model_config(entries))
    with ServerProcess([f"--model_config_file={config}"], directory=tmp_path) as server:
        wait_for_port(server, server.rest_port)
        assert server.predict("half_plus_two", {"instances": [2.0]}).json() == {
            "predictions": [3.0]
        }
        assert server.predict("broken", {"instances": [1.0]}).status == 503


def test_a_start_whose_models_have_all_failed_never_opens_a_port(tmp_path: Path) -> None:
    add_corrupt_version(tmp_path / "m", 1)
    flags = ["--model_name=m", f"--model_base_path={tmp_path / 'm'}", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path) as server:
        assert server.wait(60) == 255
        assert "Failed to start server. Error: " in server.log
        assert "1 servable(s) did not become available: {{{name: m version: 1} due to" in server.log
        assert "Running gRPC ModelServer" not in server.log


@pytest.mark.parametrize("flag", ["port", "rest_api_port", "health_port"])
def test_a_port_is_taken_by_a_server_that_still_loads(tmp_path: Path, flag: str) -> None:
    flags, _ = slow_model(tmp_path)
    with ServerProcess([*flags, f"--health_port={free_port()}"], directory=tmp_path) as first:
        wait_for_line(first, "Loading servable version {name: slow version: 1}")
        with ServerProcess([*flags, f"--{flag}={first.port}"], directory=tmp_path) as second:
            assert second.wait(60) == 255
            assert "Failed to start server. Error: INVALID_ARGUMENT: " in second.log
            assert "Failed to BuildAndStart gRPC server: cannot listen on" in second.log
            assert str(first.port) in second.log
            assert "Loading servable version" not in second.log, "it is found before any load"
