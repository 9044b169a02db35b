"""Tables of embeddings under a running server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import COMMAND, ServerProcess

GUIDE = Path(__file__).parents[2] / "docs/guides/embeddings.md"
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
BATCHING = "batching { max_batch_size { value: 8 } }"


def entry(name: str, base_path: Path, options: str = "") -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "embeddings" '
        f"servable_options {{ {options} }} }}\n"
    )


def option(name: str, value: str) -> str:
    return f'options {{ key: "{name}" value: "{value}" }}'


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's table `words`, `rows` without keys, and `cut`, whose file is too short."""
    directory = tmp_path_factory.mktemp("embeddings")
    program, _ = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", program], cwd=directory, check=True)
    for name in ("rows", "cut", "shrinking"):
        (directory / name / "1").mkdir(parents=True)
        np.save(directory / name / "1/embeddings.npy", VECTORS)
    os.truncate(directory / "cut/1/embeddings.npy", 150)
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[ServerProcess]:
    config = directory / "models.config"
    entries = [
        entry("words", directory / "tables/words"),
        entry("rows", directory / "rows", option("combiner", "sum") + BATCHING),
        entry("zeros", directory / "rows", option("unknown", "zeros")),
        entry("apart", directory / "rows", "process: true"),
        entry("shrinking", directory / "shrinking"),
        entry("cut", directory / "cut"),
    ]
    config.write_text("model_config_list {\n" + "".join(entries) + "}\n")
    flags = [f"--model_config_file={config}", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available("words", "rows", "zeros", "apart", "shrinking")
        yield process
        assert process.is_running, process.log


def test_the_guide_is_correct(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    text = GUIDE.read_text()
    _, program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    sent = re.findall(r"curl -d '(.*?)' localhost:8500(\S+)", text)
    answers = [server.request("POST", path, body.encode()).json() for body, path in sent]
    looked_up, bag, nearest = answers
    assert np.allclose(looked_up["predictions"], [[0.9, 1, 0], [0, 0.1, 1]])
    assert np.allclose(bag["predictions"], [[0.95, 0.95, 0]])
    assert nearest["outputs"]["keys"] == [["car", "bus"]]
    exec(program.replace("localhost:8500", f"localhost:{server.port}"), {})
    promised = re.findall(r"# prints (.*)", program)
    assert capsys.readouterr().out.splitlines()[1:] == promised


def test_ids_are_looked_up_over_both_protocols(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    for model in ("rows", "apart"):
        reply = server.predict(model, {"instances": [2, 0]})
        assert reply.json() == {"predictions": VECTORS[[2, 0]].tolist()}
    ids = np.array([[3], [1]], np.int64)
    answer = grpc_client.predict(server.port, "zeros", {"ids": ids})
    assert np.array_equal(answer["outputs"]["vectors"], VECTORS[ids])


def test_bags_are_summed_and_unknown_ids_are_errors_or_zeros(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    document = {"signature_name": "bag", "inputs": {"ids": [[1, 2], [3, 9]], "lengths": [2, 1]}}
    assert server.predict("rows", document).json() == {
        "outputs": [(VECTORS[1] + VECTORS[2]).tolist(), VECTORS[3].tolist()]
    }
    wanted = 'input "ids": got 9, want 0 to 3'
    reply = server.predict("rows", {"instances": [0, 9]})
    assert (reply.status, reply.error) == (400, wanted)
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(server.port, "rows", {"ids": np.array([9], np.int64)})
    assert (raised.value.code, raised.value.details) == ("INVALID_ARGUMENT", wanted)
    assert server.predict("zeros", {"instances": [-1]}).json() == {"predictions": [[0.0] * 3]}


def test_metadata_has_all_signatures(server: ServerProcess) -> None:
    document = server.get("/v1/models/words/metadata").json()
    signatures = document["metadata"]["signature_def"]["signature_def"]
    by_key = {"lookup", "bag", "weighted_bag", "serving_default"}
    by_id = {"lookup_ids", "bag_ids", "weighted_bag_ids"}
    assert set(signatures) == by_key | by_id | {"nearest", "nearest_k"}
    assert set(signatures["nearest"]["outputs"]) == {"ids", "keys", "scores"}


def test_a_file_that_is_cut_short_never_ends_the_server(
    server: ServerProcess, directory: Path
) -> None:
    server.wait_until_state("cut", 1, "END")
    (status,) = server.get("/v1/models/cut").json()["model_version_status"]
    assert status["status"]["error_code"] == "DATA_LOSS"
    assert "embeddings.npy: got 150 bytes, want 176" in status["status"]["error_message"]
    os.truncate(directory / "shrinking/1/embeddings.npy", 0)
    reply = server.predict("shrinking", {"instances": [3]})
    assert (reply.status, "was cut short while it was served" in reply.error) == (500, True)
    assert server.predict("rows", {"instances": [3]}).status == 200


def test_check_and_inspect_know_tables(directory: Path) -> None:
    words = str(directory / "tables/words")
    for arguments, wanted in (
        (["check", words, "--load"], "words: embeddings model in"),
        (["inspect", words], "weighted_bag"),
    ):
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, wanted in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"unknown": "drop"}, 'option "unknown": got "drop", want one of error, zeros, row, hash'),
        ({"unknown": "hash"}, 'got unknown "hash" and hash_buckets 0'),
        ({"neighbours": "0"}, 'option "neighbours": got 0, want 1 or more'),
    ],
)
def test_options_are_checked_before_a_load(
    options: dict[str, str], problem: str, directory: Path, tmp_path: Path
) -> None:
    texts = "".join(option(name, value) for name, value in options.items())
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {entry('rows', directory / 'rows', texts)} }}")
    command = [COMMAND, "check", f"--model_config_file={config}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, problem in done.stdout) == (1, True), done.stdout + done.stderr
