"""Models in worker processes, and loads that are tried in one first: real crashes under a running server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from support import models, onnx_models
from support.grpc_client import GrpcClient, RpcError
from support.server_process import Reply, ServerProcess, StartServer

X = {"instances": [1.0, 2.0, 5.0]}
Y = {"predictions": [2.5, 3.0, 4.5]}

UNRULY = """
import ctypes, os, time
from servable.signature import TensorSpec, serves

@serves(inputs={"do": TensorSpec("string", [None])}, outputs={"pid": TensorSpec("int64", [None])})
def obey(inputs):
    order = inputs["do"][0].decode()
    if order == "abort":
        os.abort()
    elif order == "crash":
        ctypes.string_at(0)
    elif order == "hang":
        time.sleep(1000)
    elif order == "sleep":
        time.sleep(0.5)
    elif order == "scribble":
        # What a library may do that is about to crash: it writes into the connections to the server.
        for descriptor in range(3, 100):
            try:
                if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                    os.write(descriptor, b"\\x08\\0\\0\\0" + b"\\xff" * 8)
            except OSError:
                pass
        time.sleep(1000)
    return {"pid": [os.getpid()] * len(inputs["do"])}
"""

SUMS = """
from servable.signature import TensorSpec, serves

@serves(inputs={"x": TensorSpec("float32", [None, 3])}, outputs={"sum": TensorSpec("float32", [None])})
def sums(inputs):
    return {"sum": inputs["x"].sum(1)}
"""


def entry(name: str, base_path: Path, platform: str, options: str = "") -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "{platform}" '
        f"servable_options {{ {options} }} }}\n"
    )


def config(path: Path, *entries: str) -> str:
    path.write_text("model_config_list {\n" + "".join(entries) + "}\n")
    return f"--model_config_file={path}"


def add_python_version(base_path: Path, version: int, body: str) -> None:
    aside = base_path / f"writing-{version}"
    aside.mkdir(parents=True)
    (aside / "model.py").write_text(body)
    aside.rename(base_path / str(version))


def workers(server: ServerProcess, servable: str = "") -> list[int]:
    """The worker processes of a version, or of all."""
    found = []
    for children in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if "servable.loaders._worker" in command and servable in ("", *command):
                    found.append(int(pid))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def onnx_models_here() -> dict[str, Any]:
    kinds = {"float16": TensorProto.FLOAT16, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    return {
        "copies": onnx_models.copies({**kinds, "string": TensorProto.STRING}),
        "endless": onnx_models.endless(),
    }


@pytest.fixture(scope="module")
def server(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A SavedModel here and in a worker, with and without batches, and an unruly Python model in a worker."""
    directory = tmp_path_factory.mktemp("workers")
    add_python_version(directory / "unruly", 1, UNRULY)
    add_python_version(directory / "sums", 1, SUMS)
    half_plus_two = demo_models / "half_plus_two"
    batching = "process: true batching { max_batch_size { value: 8 } batch_timeout_micros { value: 20000 } }"
    flag = config(
        directory / "models.config",
        entry("here", half_plus_two, "tensorflow"),
        entry("there", half_plus_two, "tensorflow", "process: true"),
        entry("batched", half_plus_two, "tensorflow", batching),
        entry("sums", directory / "sums", "python", batching),
        entry("unruly", directory / "unruly", "python", "process: true"),
        *(
            entry(
                name,
                onnx_models.write_version(directory / name, model).parent,
                "onnx",
                "process: true",
            )
            for name, model in onnx_models_here().items()
        ),
    )
    with ServerProcess([flag, "--max_num_load_retries=0"], directory=directory) as process:
        process.wait_until_available(
            "here", "there", "batched", "sums", "unruly", *onnx_models_here()
        )
        yield process
        assert process.is_running, process.log


def obey(server: ServerProcess, order: str) -> Reply:
    return server.predict("unruly", {"inputs": [order]})


def test_a_saved_model_answers_from_a_worker_as_it_does_in_the_server(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    for model in ("there", "batched"):
        assert server.predict(model, X).json() == Y
        assert len(workers(server, f"{model}/1")) == 1
        # Errors, metadata and the other protocols too.
        wrong = {"instances": ["a"]}
        assert server.predict(model, wrong).body == server.predict("here", wrong).body
        path = "/v1/models/{}/metadata"
        metadata = server.get(path.format(model)).body.replace(f'"{model}"'.encode(), b'"here"')
        assert json.loads(metadata) == server.get(path.format("here")).json()
        open_inference = server.get(f"/v2/models/{model}").json()
        assert open_inference["platform"] == server.get("/v2/models/here").json()["platform"]
    x = np.arange(4 << 20, dtype=np.float32)
    for _ in range(3):
        answer = grpc_client.predict(server.port, "there", {"x": x})["outputs"]
        (y,) = answer.values()
        assert np.array_equal(y, x * np.float32(0.5) + 2)
    examples = {"examples": [{"x": 1.0}, {"x": 5.0}]}
    for verb in ("classify", "regress"):
        answers = [
            server.request("POST", f"/v1/models/{model}:{verb}", json.dumps(examples).encode())
            for model in ("here", "there")
        ]
        assert answers[0].body == answers[1].body


def test_a_native_runtime_answers_from_a_worker_and_cancels_runs_at_the_deadline(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    found = workers(server, "endless/1"), workers(server, "copies/1")
    assert [len(pids) for pids in found] == [1, 1]
    sent: dict[str, Any] = {
        name: np.tile(np.array([[0, 1], [1, 0]], name), (count, 1))
        for name, count in {"float16": 1, "int64": 1, "bool": 1}.items()
    }
    sent["string"] = np.array([[b"", b"\0\xff"], ["é".encode(), b"x" * 100_000]], object)
    answer = grpc_client.predict(server.port, "copies", sent)["outputs"]
    for name, value in sent.items():
        assert answer[f"{name}_out"].tolist() == value.tolist(), name
    numbers = {"n": np.array(2**62), "x": np.zeros(1, np.float32)}
    with pytest.raises(RpcError) as info:
        grpc_client.predict(server.port, "endless", numbers, timeout=0.5)
    assert info.value.code == "DEADLINE_EXCEEDED"
    # The runtime has cancelled the run, so the process stays.
    time.sleep(3)
    assert (workers(server, "endless/1"), workers(server, "copies/1")) == found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_under_load_costs_its_requests_and_no_other_model(
    number: signal.Signals, server: ServerProcess
) -> None:
    stop = threading.Event()
    seen: dict[str, Counter[int]] = {"here": Counter(), "there": Counter(), "batched": Counter()}
    errors: set[str] = set()

    def load(model: str) -> None:
        while not stop.is_set():
            reply = server.predict(model, X)
            seen[model][reply.status] += 1
            if reply.status == 200:
                assert reply.json() == Y
            else:
                errors.add(reply.error)

    with ThreadPoolExecutor(6) as pool:
        threads = [pool.submit(load, model) for model in seen for _ in range(2)]
        try:
            for model in ("there", "batched"):
                (victim,) = workers(server, f"{model}/1")
                wait_for(lambda m=model: seen[m][200] > 20)
                os.kill(victim, number)
                wait_for(lambda m=model, v=victim: workers(server, f"{m}/1") not in ([v], []))
                before = seen[model][200]
                wait_for(lambda m=model, b=before: seen[m][200] > b + 20)
        finally:
            stop.set()
        for thread in threads:
            thread.result()
    assert set(seen["here"]) == {200}
    assert set(seen["there"]) | set(seen["batched"]) <= {200, 503}
    told = rf"was killed by {number.name} during the request"
    assert all(told in error or "has no worker" in error for error in errors), errors


@pytest.mark.parametrize(
    ("order", "how"),
    [
        ("abort", "was killed by SIGABRT"),
        ("crash", "was killed by SIGSEGV"),
        ("scribble", "sent a damaged message (the status is unknown), and was killed"),
    ],
)
def test_a_model_that_crashes_costs_the_requests_in_flight(
    order: str, how: str, server: ServerProcess
) -> None:
    wait_for(lambda: obey(server, "").status == 200)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(obey, server, "sleep") for _ in range(2)]
        time.sleep(0.1)
        reply = pool.submit(obey, server, order).result()
        assert reply.status == 503
        assert reply.error == f"the worker of unruly/1 {how} during the request"
        assert {other.result().status for other in others} <= {200, 503}
    assert server.predict("here", X).json() == Y
    wait_for(lambda: obey(server, "").status == 200)
    assert f"A worker of unruly/1 {how}; it is replaced" in server.log


def test_a_model_that_hangs_is_replaced_after_the_deadline(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    wait_for(lambda: obey(server, "").status == 200)
    (before,) = workers(server, "unruly/1")
    with pytest.raises(RpcError) as info:
        grpc_client.predict(server.port, "unruly", {"do": np.array([b"hang"], object)}, timeout=0.3)
    assert info.value.code == "DEADLINE_EXCEEDED"
    # Others are served by the same process meanwhile.
    assert obey(server, "").json() == {"outputs": [before]}
    wait_for(lambda: workers(server, "unruly/1") not in ([before], []))
    wait_for(lambda: obey(server, "").status == 200)


def test_a_batch_has_no_request_that_its_model_would_refuse(server: ServerProcess) -> None:
    good, bad = {"instances": [[1.0, 2.0, 3.0]]}, {"instances": [[0.0, 0.0, 0.0, 0.0]]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: server.predict("sums", body), [good, bad] * 4))
    assert [answer.json() for answer in answers[::2]] == [{"predictions": [6.0]}] * 4
    complaint = 'input "x" of sums/1: got shape [1, 4], want [?, 3]'
    assert [(answer.status, answer.error) for answer in answers[1::2]] == [(400, complaint)] * 4


@pytest.mark.parametrize("options", ["process: true", "trial_load: true"])
def test_a_version_that_aborts_while_it_is_loaded_has_failed_and_the_last_one_serves(
    options: str, start_server: StartServer, tmp_path: Path
) -> None:
    base_path = tmp_path / "m"
    good = UNRULY.replace("obey(", "obeys(")
    add_python_version(base_path, 1, good)
    flag = config(tmp_path / "models.config", entry("m", base_path, "python", options))
    server = start_server({}, flag)
    server.wait_until_available("m")
    for version, body, told in [
        (2, "import os; os.abort()", "the worker was killed by SIGABRT"),
        (3, "import ctypes; ctypes.string_at(0)", "the worker was killed by SIGSEGV"),
        (4, "import os; os._exit(5)", "the worker exited with status 5"),
        (5, "import nonsense_module", "No module named 'nonsense_module'"),
    ]:
        add_python_version(base_path, version, body)
        wait_for(lambda v=version: server.states("m").get(v) == "END")
        status = server.get(f"/v1/models/m/versions/{version}").json()["model_version_status"][0]
        assert told in status["status"]["error_message"], status
        assert server.predict("m", {"inputs": [""]}).status == 200
    add_python_version(base_path, 6, good)
    server.wait_until_available("m", version=6)
    (pid,) = server.predict("m", {"inputs": [""]}).json()["outputs"]
    assert (pid == server.process.pid) == (options == "trial_load: true")
    expected = [] if options == "trial_load: true" else [pid]
    wait_for(lambda: workers(server) == expected)


def test_a_model_that_aborts_on_its_first_run_fails_its_trial_if_it_is_warmed_up(
    start_server: StartServer, tmp_path: Path
) -> None:
    body = UNRULY.replace('order == "abort"', 'order == ""')
    add_python_version(tmp_path / "m", 1, SUMS)
    options = "trial_load: true warmup { automatic: true }"
    flag = config(tmp_path / "models.config", entry("m", tmp_path / "m", "python", options))
    server = start_server({}, flag)
    server.wait_until_available("m")
    add_python_version(tmp_path / "m", 2, body)
    wait_for(lambda: server.states("m").get(2) == "END")
    assert "the worker was killed by SIGABRT" in json.dumps(server.get("/v1/models/m").json())


def test_a_saved_model_is_served_after_its_trial(
    half_plus_two_version: Path, start_server: StartServer, tmp_path: Path
) -> None:
    models.add_version(tmp_path / "m", 1, half_plus_two_version, offset=2.0)
    flag = config(
        tmp_path / "models.config", entry("m", tmp_path / "m", "tensorflow", "trial_load: true")
    )
    server = start_server({}, flag)
    server.wait_until_available("m")
    assert server.predict("m", X).json() == Y
    assert workers(server) == []
    broken = models.add_version(tmp_path / "m", 2, half_plus_two_version, offset=2.0)
    (broken / "saved_model.pb").write_bytes(b"\xff" * 100)
    wait_for(lambda: server.states("m").get(2) == "END")
    assert "trial load: " in json.dumps(server.get("/v1/models/m/versions/2").json())


def test_unloading_leaves_no_process_and_no_shared_memory(
    half_plus_two_version: Path, start_server: StartServer, tmp_path: Path, grpc_client: GrpcClient
) -> None:
    models.add_version(tmp_path / "m", 1, half_plus_two_version, offset=2.0)
    flag = config(
        tmp_path / "models.config", entry("m", tmp_path / "m", "tensorflow", "process: true")
    )
    server = start_server({}, flag)
    server.wait_until_available("m")

    def shared() -> int:
        proc = Path(f"/proc/{server.process.pid}")
        maps = (proc / "maps").read_text().count("memfd:servable-tensors")
        files = 0
        for file in (proc / "fd").iterdir():
            with contextlib.suppress(OSError):
                files += "servable-tensors" in os.readlink(file)
        return maps + files

    for version in (2, 3):
        x = np.arange(1 << 20, dtype=np.float32)
        grpc_client.predict(server.port, "m", {"x": x})
        assert shared() > 0
        (pid,) = workers(server)
        models.add_version(tmp_path / "m", version, half_plus_two_version, offset=2.0)
        server.wait_until_available("m", version=version)
        wait_for(lambda v=version: server.states("m").get(v - 1) == "END")
        assert not is_alive(pid)
        assert len(workers(server)) == 1
    wait_for(lambda: shared() == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_server(
    number: signal.Signals,
    half_plus_two_version: Path,
    start_server: StartServer,
    tmp_path: Path,
) -> None:
    models.add_version(tmp_path / "m", 1, half_plus_two_version, offset=2.0)
    flag = config(
        tmp_path / "models.config", entry("m", tmp_path / "m", "tensorflow", "process: true")
    )
    server = start_server({}, flag)
    server.wait_until_available("m")
    (pid,) = workers(server, "m/1")
    server.process.send_signal(number)
    assert server.wait() == (0 if number == signal.SIGTERM else -number)
    wait_for(lambda: not is_alive(pid), 10)


def test_python_workers_are_the_processes_of_a_model_that_wants_one(
    start_server: StartServer, tmp_path: Path
) -> None:
    add_python_version(tmp_path / "m", 1, UNRULY)
    options = "process: true python { workers: 2 }"
    flag = config(tmp_path / "models.config", entry("m", tmp_path / "m", "python", options))
    server = start_server({}, flag)
    server.wait_until_available("m")
    found = workers(server, "m/1")
    assert len(found) == 2
    assert workers(server) == found


def test_the_guide_serves_what_it_says(
    demo_models: Path, start_server: StartServer, tmp_path: Path
) -> None:
    guide = models.ROOT / "docs/guides/isolation.md"
    (text,) = re.findall(r"```\n# models.config\n(.*?)```", guide.read_text(), re.DOTALL)
    file = tmp_path / "models.config"
    file.write_text(re.sub(r'"/…[^"]*"', f'"{demo_models / "half_plus_two"}"', text))
    server = start_server({}, f"--model_config_file={file}")
    server.wait_until_available("ranker", "half_plus_two")
    for model in ("ranker", "half_plus_two"):
        assert server.predict(model, X).json() == Y
    assert workers(server) == workers(server, "ranker/1") != []
