"""Lookup tables under a running server, and a kind of servable from another distribution."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import COMMAND, ServerProcess

GUIDES = Path(__file__).resolve().parents[2] / "docs/guides"
EXTENDING = (GUIDES / "extending.md").read_text()
PLATFORM = EXTENDING.split("```python\n", 1)[1].split("```", 1)[0]
ENTRY_POINT = EXTENDING.split("```toml\n", 1)[1].split("```", 1)[0]

WORDS = "apple\t1\t2.5\npear\t-3\t4\n\t0\t0\n"


def write_table(base_path: Path, version: int, text: str) -> Path:
    """Add a version by a rename, so that it is served at once."""
    aside = base_path / f"writing-{version}"
    aside.mkdir(parents=True)
    (aside / "table.tsv").write_text(text)
    return aside.rename(base_path / str(version))


def entry(name: str, base_path: Path, platform: str = "hash_map", options: str = "") -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "{platform}" '
        f"{options} }}\n"
    )


def config_flag(file: Path, *entries: str) -> str:
    file.write_text("model_config_list {\n" + "".join(entries) + "}\n")
    return f"--model_config_file={file}"


BATCHING = "servable_options { batching { max_batch_size { value: 4 } batch_timeout_micros { value: 50000 } } }"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("tables")
    words = write_table(directory / "words", 1, WORDS).parent
    flags = [
        config_flag(
            directory / "models.config",
            entry("words", words),
            entry("batched", words, options=BATCHING),
        ),
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=1",
    ]
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available("words", "batched")
        yield process
        assert process.is_running, process.log


def test_keys_are_looked_up_over_rest(server: ServerProcess) -> None:
    reply = server.predict("words", {"instances": ["pear", "apple", ""]})
    assert reply.json() == {"predictions": [[-3.0, 4.0], [1.0, 2.5], [0.0, 0.0]]}
    reply = server.predict("words", {"inputs": {"keys": []}})
    assert reply.json() == {"outputs": []}


def test_keys_are_looked_up_over_grpc(server: ServerProcess, grpc_client: GrpcClient) -> None:
    answer = grpc_client.predict(server.port, "words", {"keys": np.array([b"apple"], object)})
    values = answer["outputs"]["values"]
    assert (values.dtype, values.tolist()) == (np.float32, [[1.0, 2.5]])


def test_metadata_says_what_goes_in_and_what_comes_out(server: ServerProcess) -> None:
    document = server.get("/v1/models/words/metadata").json()
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["keys"]["dtype"] == "DT_STRING"
    values = signature["outputs"]["values"]
    assert values["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in values["tensor_shape"]["dim"]] == ["-1", "2"]


@pytest.mark.parametrize("model", ["words", "batched"])
def test_an_unknown_key_is_named(
    model: str, server: ServerProcess, grpc_client: GrpcClient
) -> None:
    wanted = 'input "keys": there is no key "plum" in the table'
    reply = server.predict(model, {"instances": ["apple", "plum"]})
    assert (reply.status, reply.error) == (400, wanted)
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(server.port, model, {"keys": np.array([b"plum"], object)})
    assert (raised.value.code, raised.value.details) == ("INVALID_ARGUMENT", wanted)


def test_values_that_violate_the_signature_are_refused_as_for_any_model(
    server: ServerProcess,
) -> None:
    assert server.predict("words", {"instances": [1]}).status == 400
    assert server.predict("words", {"inputs": {"words": ["apple"]}}).status == 400


def test_requests_share_batches_and_not_their_errors(server: ServerProcess) -> None:
    with ThreadPoolExecutor(4) as threads:
        asked = ["apple", "plum", "pear", "apple"]
        replies = [*threads.map(lambda key: server.predict("batched", {"instances": [key]}), asked)]
    assert [reply.status for reply in replies] == [200, 400, 200, 200]
    (version,) = server.get("/v1/models/batched/batching").json()["versions"]
    assert version["queues"]
    assert server.predict("batched", {"instances": ["apple"] * 5}).status == 400


def test_a_new_version_replaces_the_old_one(tmp_path: Path, grpc_client: GrpcClient) -> None:
    base_path = write_table(tmp_path / "m", 1, "a\t1\n").parent
    flags = [config_flag(tmp_path / "models.config", entry("m", base_path)),
             "--file_system_poll_wait_seconds=1"]  # fmt: skip
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("m")
        write_table(base_path, 2, "a\t2\nb\t3\n")
        server.wait_until_available("m", version=2)
        assert server.predict("m", {"instances": ["a", "b"]}).json() == {
            "predictions": [[2.0], [3.0]]
        }

        other = write_table(tmp_path / "n", 7, "c\t4\n").parent
        entries = entry("m", base_path) + entry("n", other)
        grpc_client.call("reload", server.port, f"model_config_list {{ {entries} }}")
        assert server.predict("n", {"instances": ["c"]}).json() == {"predictions": [[4.0]]}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("a\t1\nb\t1\t2\n", "2: got 2 numbers, want 1 as in line 1"),
        ("a\t1\nb\tx\n", '2: got "x", want a number'),
        ("a\t1\nb\n", "2: got no tab, want a key, a tab and numbers"),
        ("a\t1\nb\t2\na\t3\n", '3: got key "a" of line 1 again'),
        ("", "1: got an empty file, want at least one line"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(table: str, problem: str, tmp_path: Path) -> None:
    version = write_table(tmp_path / "damaged", 1, table)
    good = write_table(tmp_path / "good", 1, WORDS).parent
    flag = config_flag(
        tmp_path / "models.config", entry("damaged", version.parent), entry("good", good)
    )
    checked = subprocess.run(
        [COMMAND, "check", str(version.parent)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, f"table.tsv:{problem}" in checked.stdout) == (1, True)
    with ServerProcess([flag], directory=tmp_path) as server:
        server.wait_until_available("good")
        server.wait_until_state("damaged", 1, "END")
        (status,) = server.get("/v1/models/damaged").json()["model_version_status"]
        assert status["status"] == {
            "error_code": "DATA_LOSS",
            "error_message": f"{version}/table.tsv:{problem}",
        }


def test_check_and_inspect_recognise_a_table(tmp_path: Path) -> None:
    base_path = write_table(tmp_path / "words", 1, WORDS).parent
    for arguments, wanted in (
        (["check", str(base_path), "--load"], "words: hash_map model in"),
        (["inspect", str(base_path)], "values  float32 [?, 2]"),
        (["inspect", str(base_path / "1")], "keys  bytes [?]"),
    ):
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, wanted in done.stdout) == (0, True), done.stdout + done.stderr


def test_another_distribution_adds_a_kind_of_servable(tmp_path: Path) -> None:
    site = tmp_path / "site"
    information = site / "factor_platform-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "factor_platform.py").write_text(PLATFORM)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: factor\nVersion: 1.0\n")
    group, name = ENTRY_POINT.replace('"', "").splitlines()
    group = group.replace("project.entry-points.", "")
    (information / "entry_points.txt").write_text(f"{group}\n{name}\n")
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/factor.txt").write_text("3")
    flag = config_flag(tmp_path / "models.config", entry("m", tmp_path / "m", "factor", BATCHING))
    with ServerProcess([flag], directory=tmp_path, environment={"PYTHONPATH": str(site)}) as server:
        server.wait_until_available("m")
        assert server.predict("m", {"instances": [2.0]}).json() == {"predictions": [6.0]}
        assert server.predict("m", {"instances": [2.0] * 5}).status == 400, "it is batched"
    shutil.rmtree(information)
    done = subprocess.run(
        [COMMAND, "check", flag, "--port=0", "--rest_api_port=8501"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Model m requests unsupported platform factor" in done.stdout


def test_the_guide_is_correct(tmp_path: Path) -> None:
    text = (GUIDES / "lookup-tables.md").read_text()
    make, serve = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    ((config, answer),) = re.findall(r"```\n(#.*?)```.*```json\n(.*?)```", text, re.DOTALL)
    subprocess.run(["sh", "-ec", make], cwd=tmp_path, check=True)
    file = tmp_path / "models.config"
    file.write_text(config.replace("/…", str(tmp_path)))
    command, curl = serve.splitlines()
    assert command == "servable --model_config_file=models.config --port=8500"
    with ServerProcess([f"--model_config_file={file}"], directory=tmp_path) as server:
        server.wait_until_available("words")
        sent = re.search("'(.*)' localhost:8500(.*)", curl)
        assert sent is not None
        reply = server.request("POST", sent[2], sent[1].encode())
        assert reply.json() == json.loads(answer)
