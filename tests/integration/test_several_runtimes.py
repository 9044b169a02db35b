"""All native runtimes in one process, opened in different orders, answer correctly under load."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from support import models, open_runtimes
from support.boosted_models import Case, entry, train
from support.grpc_client import GrpcClient
from support.onnx_models import scaled, write_version
from support.server_process import ServerProcess

RUNTIMES = ("tensorflow", "xgboost", "onnx", "lightgbm", "tflite")
PACKAGES = ("sklearn.ensemble", "xgboost", "lightgbm", "onnxruntime")


@dataclass(frozen=True)
class Trained:
    """A base path for each runtime, and what the libraries of trees predict."""

    paths: dict[str, Path]
    cases: dict[str, Case]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, model_cache: Path, half_plus_two_version: Path
) -> Trained:
    directory = tmp_path_factory.mktemp("several")
    cases = {each: train(each, directory / each)["binary"] for each in ("xgboost", "lightgbm")}
    script = models.ROOT / "tests/testdata/convert_tflite_models.py"
    paths = {
        "tensorflow": half_plus_two_version.parent,
        "onnx": write_version(directory / "onnx", scaled(2)).parent,
        "tflite": models.exported(script, model_cache) / "linear",
        **{each: directory / each / "binary" for each in cases},
    }
    return Trained(paths, cases)


def ask(server: ServerProcess, trained: Trained, number: int) -> None:
    """Send a request to one of the models, and compare the answer."""
    name = RUNTIMES[number % len(RUNTIMES)]
    if name == "tensorflow":
        answer = server.predict(name, {"instances": [float(number)]}).json()
        assert answer == {"predictions": [number / 2 + 2]}
    elif name == "onnx":
        answer = server.predict(name, {"instances": [[1, number]]}).json()
        assert answer == {"predictions": [[2, 2 * number]]}
    elif name == "tflite":
        (row,) = server.predict(name, {"instances": [[1, 2, 3, number]]}).json()["predictions"]
        assert row["total"] == 6 + number
    else:
        case = trained.cases[name]
        rows = case.x[number : number + 40]
        answer = server.predict(name, json.dumps({"instances": rows.tolist()}).encode()).json()
        wanted = case.expected("serving_default")["probabilities"][number : number + 40]
        found = np.array([row["probabilities"] for row in answer["predictions"]], wanted.dtype)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("first", RUNTIMES)
def test_runtimes_in_one_server_answer_under_load(
    first: str, trained: Trained, grpc_client: GrpcClient, tmp_path: Path
) -> None:
    start = RUNTIMES.index(first)
    order = RUNTIMES[start:] + RUNTIMES[:start]
    entries = {each: entry(each, trained.paths[each], each) for each in order}
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ {entries[first]} }}")
    with ServerProcess([f"--model_config_file={file}"], directory=tmp_path) as server:
        server.wait_until_available(first)
        for count in range(2, len(order) + 1):
            text = "".join(entries[each] for each in order[:count])
            grpc_client.call("reload", server.port, f"model_config_list {{ {text} }}")
            server.wait_until_available(order[count - 1])
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: ask(server, trained, number), range(300)))
        assert server.is_running


@pytest.mark.parametrize("packages", ["before", "after"])
def test_packages_and_forks_work_beside_the_runtimes(packages: str, trained: Trained) -> None:
    runtimes = [f"{name}={path / '1'}" for name, path in trained.paths.items()]
    (version,) = trained.paths["tensorflow"].iterdir()
    runtimes[0] = f"tensorflow={version}"
    imported = list(PACKAGES)
    steps = imported + runtimes if packages == "before" else runtimes + imported
    done = subprocess.run(
        [sys.executable, open_runtimes.__file__, *steps],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]
