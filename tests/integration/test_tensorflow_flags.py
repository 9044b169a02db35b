"""Flags that are passed to TensorFlow, or check a model's method names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.server_process import ServerProcess, StartServer

HALF_PLUS_TWO = {"signature_name": "serving_default", "inputs": [1.0]}


@pytest.mark.parametrize("flag", [[], ["--xla_cpu_compilation_enabled"]])
def test_functions_for_xla_are_compiled(
    flag: list[str], runtime_models: Path, start_server: StartServer
) -> None:
    server = start_server({"compiled": runtime_models / "compiled"}, *flag)
    server.wait_until_available("compiled")
    assert server.predict("compiled", {"inputs": [1.0, 2.0]}).json() == {"outputs": [2.5, 3.0]}


@pytest.mark.parametrize(
    "flags",
    [
        ["--tensorflow_session_parallelism=1"],
        ["--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=2"],
        ["--per_process_gpu_memory_fraction=0.3", "--mixed_precision=bfloat16"],
    ],
)
def test_models_run_with_session_options(
    flags: list[str], demo_models: Path, start_server: StartServer
) -> None:
    server = start_server({"m": demo_models / "half_plus_two"}, *flags)
    server.wait_until_available("m")
    assert server.predict("m", HALF_PLUS_TWO).json() == {"outputs": [2.5]}


def test_a_session_file_reaches_the_runtime(
    demo_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    session = tmp_path / "session.config"
    session.write_text(
        "graph_options { optimizer_options { global_jit_level: ON_1 } } "
        "session_inter_op_thread_pool { num_threads: 1 global_name: 'one' } "
        "session_inter_op_thread_pool { num_threads: 2 global_name: 'one' }"
    )
    server = start_server(
        {"m": demo_models / "half_plus_two"}, f"--tensorflow_session_config_file={session}"
    )
    # Two sizes of one pool: only TensorFlow itself refuses that.
    assert server.wait() == 255
    assert "previously" in server.log


def classify(server: ServerProcess, signature: str) -> tuple[int, str]:
    body = {"signature_name": signature, "examples": [{"x": 1.0}]}
    reply = server.request("POST", "/v1/models/m:classify", json.dumps(body).encode())
    return reply.status, reply.body.decode()


def test_method_names_are_checked_only_on_request(
    demo_models: Path, start_server: StartServer
) -> None:
    served = {"m": demo_models / "half_plus_two"}
    lenient = start_server(served)
    strict = start_server(served, "--enable_signature_method_name_check")
    for server in (lenient, strict):
        server.wait_until_available("m")
        assert classify(server, "classify_x_to_y")[0] == 200
    wanted = (
        "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
    )
    for signature in ("serving_default", "regress_x_to_y"):
        assert wanted not in classify(lenient, signature)[1]
        status, text = classify(strict, signature)
        assert status == 400
        assert wanted.replace("/", "\\/") in text or wanted in text
