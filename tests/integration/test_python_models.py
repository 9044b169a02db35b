"""Python servables under a running server: in its process, and in workers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
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

from support.grpc_client import GrpcClient, RpcError
from support.server_process import Reply, ServerProcess, StartServer

MODELS = Path(__file__).resolve().parents[1] / "testdata/python_models"


def python_config(name: str, base_path: Path, workers: int = 0, options: str = "") -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "python" '
        f"servable_options {{ python {{ workers: {workers} }} {options} }} }}\n"
    )


def write_config(path: Path, *entries: str) -> str:
    path.write_text("model_config_list {\n" + "".join(entries) + "}\n")
    return f"--model_config_file={path}"


@pytest.fixture(scope="module")
def server(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Every model, in process, with workers and in one process, and one TensorFlow model."""
    directory = tmp_path_factory.mktemp("python")
    flag = write_config(
        directory / "models.config",
        python_config("echo", MODELS / "echo"),
        python_config("echo_workers", MODELS / "echo", 1),
        python_config("faulty", MODELS / "faulty"),
        python_config("faulty_workers", MODELS / "faulty", 1),
        python_config("echo_process", MODELS / "echo", options="process: true"),
        python_config("faulty_process", MODELS / "faulty", options="process: true"),
        python_config("moody", MODELS / "moody"),
        python_config("moody_workers", MODELS / "moody", 2),
        f'config {{ name: "tf" base_path: "{demo_models / "half_plus_two"}" '
        'model_platform: "tensorflow" }\n',
    )
    with ServerProcess([flag, "--max_num_load_retries=0"], directory=directory) as process:
        models = ["echo", "faulty", "moody"]
        process.wait_until_available("tf", *models, *(f"{name}_workers" for name in models))
        process.wait_until_available("echo_process", "faulty_process")
        yield process
        assert process.is_running, process.log


everywhere = pytest.mark.parametrize(
    "suffix", ["", "_workers", "_process"], ids=["in process", "workers", "process"]
)


def obey(server: ServerProcess, model: str, order: str) -> Reply:
    return server.predict(model, {"inputs": [order]})


def process_of(server: ServerProcess, model: str) -> int:
    reply = obey(server, model, "")
    assert reply.status == 200, reply.body
    return int(reply.json()["outputs"][0])


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def arrays() -> dict[str, Any]:
    ml_dtypes = pytest.importorskip("ml_dtypes")  # comes with TensorFlow
    made = {
        name: np.array([[0, 1, 2], [3, 4, np.iinfo(name).max]], name)
        for name in "int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
    }
    for name in ("float16", "float32", "float64"):
        made[name] = np.array([[0.0, -0.0, 1.5], [np.inf, -np.inf, np.nan]], name)
    made["bfloat16"] = np.array([1.5, -2.25, np.nan], ml_dtypes.bfloat16)
    made["bool"] = np.array([[True, False], [False, True]])
    made["complex64"] = np.array([1 + 2j, -0.5j], np.complex64)
    made["complex128"] = np.array(1 + 2j, np.complex128)
    made["bytes"] = np.array([[b"", b"a\0b\0"], ["é😀".encode(), b"\xff\xfe" * 20]], object)
    return made


class TestTensors:
    @everywhere
    @pytest.mark.parametrize("as_content", [True, False], ids=["content", "fields"])
    def test_of_all_dtypes_pass_through(
        self, suffix: str, as_content: bool, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        for name, sent in arrays().items():
            for value in (sent, sent[:0]) if sent.ndim else (sent,):
                answer = grpc_client.predict(
                    *(server.port, f"echo{suffix}", {"x": value}),
                    signature=name,
                    as_content=as_content,
                )
                got = answer["outputs"]["y"]
                assert (got.shape, got.dtype) == (value.shape, value.dtype), name
                if value.dtype == object:
                    assert got.tolist() == value.tolist()
                else:
                    assert got.tobytes() == value.tobytes(), name

    @everywhere
    def test_pass_through_rest(self, suffix: str, server: ServerProcess) -> None:
        for name, rows in {
            "float32": [[1.5, -2.0], [0.25, 8.0]],
            "int64": [[-(2**63), 2**63 - 1]],
            "bool": [True, False],
            "bytes": ["a", "é😀"],
        }.items():
            document = {"signature_name": name, "instances": rows}
            reply = server.predict(f"echo{suffix}", document)
            assert reply.status == 200, reply.body
            assert reply.json() == {"predictions": rows}

    @everywhere
    def test_of_ten_megabytes_pass_through(
        self, suffix: str, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        sent = np.arange(2_500_000, dtype=np.float32)
        answer = grpc_client.predict(server.port, f"echo{suffix}", {"x": sent}, signature="float32")
        assert np.array_equal(answer["outputs"]["y"], sent)

    @everywhere
    def test_need_not_be_contiguous_and_outputs_can_be_chosen(
        self, suffix: str, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
        model = f"echo{suffix}"
        outputs = grpc_client.predict(server.port, model, {"x": x}, signature="matrix")["outputs"]
        assert outputs["sum"].tolist() == [6, 15]
        assert outputs["transposed"].tolist() == x.T.tolist()
        chosen = grpc_client.predict(
            *(server.port, model, {"x": x}), signature="matrix", output_filter=("sum",)
        )
        assert list(chosen["outputs"]) == ["sum"]

    @everywhere
    def test_are_read_only_and_stay_valid_if_a_model_keeps_them(
        self, suffix: str, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        model = f"echo{suffix}"
        for number in range(5):
            x = np.full(100_000, number, np.float32)
            answer = grpc_client.predict(
                server.port, model, {"x": x}, signature="about", timeout=50
            )
            outputs = answer["outputs"]
            assert not outputs["is_writeable"]
            assert outputs["name"].tolist() == b"about"
            assert outputs["directory"].tolist() == str(MODELS / "echo/1").encode()
            # The clock is the same for all processes; gRPC rounds time-outs up slightly.
            assert 0 < outputs["deadline"] - time.monotonic() < 52
            if number:
                assert outputs["before"].tolist() == [number - 1] * 100_000

    @everywhere
    def test_must_match_the_declaration(
        self, suffix: str, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        model = f"echo{suffix}"
        for array, found in [
            (np.zeros((2, 4), np.float32), "shape [2, 4], want [?, 3]"),
            (np.zeros(3, np.float32), "shape [3], want [?, 3]"),
            (np.zeros((2, 3), np.float64), "dtype float64, want float32"),
        ]:
            with pytest.raises(RpcError) as info:
                grpc_client.predict(server.port, model, {"x": array}, signature="matrix")
            assert info.value.code == "INVALID_ARGUMENT"
            assert info.value.details == f'input "x" of {model}/1: got {found}'

    def test_are_described_by_metadata(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        signature = grpc_client.call("metadata", server.port, "echo")["matrix"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
        sizes = [dim["size"] for dim in signature["inputs"]["x"]["tensor_shape"]["dim"]]
        assert sizes == ["-1", "3"]
        over_rest = server.get("/v1/models/echo_workers/metadata").json()
        named = over_rest["metadata"]["signature_def"]["signature_def"]
        assert named["bytes"]["inputs"]["x"]["tensor_shape"]["unknown_rank"] is True


class TestErrors:
    @everywhere
    @pytest.mark.parametrize(
        ("what", "status", "message"),
        [
            ("InvalidInputError", 400, "as told"),
            ("NotFoundError", 404, "as told"),
            ("FailedPreconditionError", 400, "as told"),
            ("OverloadedError", 429, "as told"),
            ("UnavailableError", 503, "as told"),
            ("DeadlineExceededError", 504, "as told"),
            ("UnimplementedError", 501, "as told"),
            ("BackendError", 500, "as told"),
            ("code 7", 403, "as told"),
            ("ValueError", 500, "ValueError: not that one"),
            ("HTTPError", 500, "RuntimeError: upstream"),
            ("none", 500, "outputs of {}/1: got NoneType, want a dict of arrays by name"),
            ("missing", 500, 'outputs of {}/1: got none, want "y"'),
            ("other names", 500, 'outputs of {}/1: got "a", "b", want "y"'),
            ("dtype", 500, 'output "y" of {}/1: got dtype float64, want float32'),
            ("shape", 500, 'output "y" of {}/1: got shape [1, 2], want [?]'),
            ("string", 500, 'output "y" of {}/1: got dtype bytes, want float32'),
            ("object", 500, 'output "y" of {}/1: got an element of type int, want bytes'),
        ],
    )
    def test_reach_the_client(
        self, suffix: str, what: str, status: int, message: str, server: ServerProcess
    ) -> None:
        model = f"faulty{suffix}"
        reply = server.predict(model, {"inputs": [what]})
        assert (reply.status, reply.error) == (status, message.format(model))
        assert server.predict(model, {"inputs": [""]}).json() == {"outputs": [0.0]}

    @everywhere
    def test_of_odd_outputs_are_internal(self, suffix: str, server: ServerProcess) -> None:
        for what in ("no dtype", "lambda", "exit while pickled"):
            reply = server.predict(f"faulty{suffix}", {"inputs": [what]})
            assert reply.status == 500, (what, reply.body)
            assert server.predict(f"faulty{suffix}", {"inputs": [""]}).status == 200

    @everywhere
    def test_that_are_no_exceptions_cost_only_their_request(
        self, suffix: str, server: ServerProcess
    ) -> None:
        workers = children(server.process.pid)
        for what, text in {
            "SystemExit": "SystemExit: 3",
            "KeyboardInterrupt": "KeyboardInterrupt",
            "GeneratorExit": "GeneratorExit",
            "CancelledError": "CancelledError",
            "BaseException": "BaseException: base",
            "Interrupt": "Interrupt: <exception str() failed>",
        }.items():
            tracebacks = server.log.count("raise NOT_EXCEPTIONS[what]()")
            # More than there are threads for an in-process model.
            for _ in range(10):
                reply = server.predict(f"faulty{suffix}", {"inputs": [what]})
                assert (reply.status, reply.error.rstrip(": ")) == (500, text)
            assert server.predict(f"faulty{suffix}", {"inputs": [""]}).status == 200
            assert server.log.count("raise NOT_EXCEPTIONS[what]()") == tracebacks + 10
        assert children(server.process.pid) == workers

    def test_have_their_traceback_in_the_log(self, server: ServerProcess) -> None:
        for suffix in ("", "_workers"):
            before = server.log.count('raise ValueError("not that one")')
            server.predict(f"faulty{suffix}", {"inputs": ["ValueError"]})
            assert server.log.count('raise ValueError("not that one")') == before + 1


class TestIsolation:
    def test_a_slow_model_does_not_delay_another(self, server: ServerProcess) -> None:
        document = {"instances": [1.0, 2.0]}
        server.predict("tf", document)
        with ThreadPoolExecutor(40) as pool:
            slow = [
                *(pool.submit(obey, server, "moody", "spin 0.1") for _ in range(20)),
                *(pool.submit(obey, server, "moody_workers", "sleep 0.2") for _ in range(20)),
            ]
            wait_for(lambda: any(answer.running() for answer in slow))
            times = []
            for _ in range(50):
                start = time.monotonic()
                assert server.predict("tf", document).status == 200
                times.append(time.monotonic() - start)
            assert not all(answer.done() for answer in slow)
            assert sorted(times)[25] < 0.1, times
            assert {answer.result().status for answer in slow} == {200}

    def test_workers_are_processes_of_their_own(self, server: ServerProcess) -> None:
        assert process_of(server, "moody") == server.process.pid
        with ThreadPoolExecutor(2) as pool:
            orders = [pool.submit(obey, server, "moody_workers", "sleep 0.3") for _ in range(2)]
            found = {order.result().json()["outputs"][0] for order in orders}
        assert len(found) == 2
        assert server.process.pid not in found

    @pytest.mark.parametrize(
        ("order", "how"), [("exit 3", "exited with status 3"), ("crash", "was killed by SIGSEGV")]
    )
    def test_a_worker_that_dies_costs_one_request(
        self, order: str, how: str, server: ServerProcess
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            dying = pool.submit(obey, server, "moody_workers", order)
            others = [pool.submit(obey, server, "moody_workers", "sleep 0.05") for _ in range(8)]
            reply = dying.result()
            assert reply.status == 503
            assert reply.error == f"the worker of moody_workers/1 {how} during the request"
            assert {other.result().status for other in others} == {200}

    def test_a_worker_that_dies_while_idle_costs_none(self, server: ServerProcess) -> None:
        victim = process_of(server, "moody_workers")
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: "was killed by SIGKILL while it was idle" in server.log)
        for _ in range(10):
            assert process_of(server, "moody_workers") != victim

    def test_a_worker_that_hangs_is_replaced(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        before = server.log.count("hung, and was killed; it is replaced")
        order = np.array([b"sleep 1000"], object)
        with pytest.raises(RpcError) as info:
            grpc_client.predict(server.port, "moody_workers", {"do": order}, timeout=0.3)
        assert info.value.code == "DEADLINE_EXCEEDED"
        # The other worker serves meanwhile.
        assert obey(server, "moody_workers", "").status == 200
        wait_for(lambda: server.log.count("hung, and was killed; it is replaced") == before + 1)
        with ThreadPoolExecutor(2) as pool:
            orders = [pool.submit(obey, server, "moody_workers", "sleep 0.3") for _ in range(2)]
            assert {order.result().status for order in orders} == {200}

    def test_the_output_of_a_worker_is_in_the_servers_log(self, server: ServerProcess) -> None:
        assert obey(server, "moody_workers", "print hello").status == 200
        assert server.log.count("hello\n") == 2


def add_version(base_path: Path, version: int, body: str, *, factor: float = 1.0) -> None:
    """Write a version elsewhere and rename it into place."""
    aside = base_path / f"writing-{version}"
    aside.mkdir(parents=True)
    (aside / "factor.py").write_text(f"FACTOR = {factor}\n")
    (aside / "model.py").write_text(body)
    aside.rename(base_path / str(version))


SCALE = """
from servable.signature import TensorSpec, serves
from .factor import FACTOR

@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def scale(inputs):
    from .factor import FACTOR as late
    assert late == FACTOR
    return {"y": inputs["x"] * FACTOR}
"""

SIGNATURES = """X = {"x": TensorSpec("float32", [None])}
  signatures = {"serving_default": Signature(X, X)}"""
CLOSES_BADLY = """
import sys
from servable.signature import Signature, TensorSpec
class Model:
  signatures = None
  def __init__(self, directory): pass
  def run(self, inputs): return inputs
  def close(self): sys.exit("closed")
"""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestLife:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_no_request_fails_while_code_is_swapped(
        self,
        workers: int,
        start_server: StartServer,
        tmp_path: Path,
        grpc_client: GrpcClient,
    ) -> None:
        base_path, last = tmp_path / "m", 6
        add_version(base_path, 1, SCALE, factor=1)
        flag = write_config(tmp_path / "my.config", python_config("m", base_path, workers))
        server = start_server({}, flag)
        server.wait_until_available("m")
        stop, stop_file = threading.Event(), tmp_path / "stop"
        over_rest: Counter[Any] = Counter()
        over_grpc: dict[str, Counter[Any]] = {}

        def load_over_rest() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
            while not stop.is_set():
                connection.request("POST", "/v1/models/m:predict", b'{"instances": [1.0]}')
                answer = connection.getresponse()
                body = json.loads(answer.read())
                over_rest[body["predictions"][0] if answer.status == 200 else str(body)] += 1
            connection.close()

        def load_over_grpc() -> None:
            arguments = (server.port, "m", {"x": np.float32([1])}, "y", str(stop_file), 2)
            over_grpc.update(grpc_client.call("predict_until", *arguments))

        threads = [threading.Thread(target=f) for f in (load_over_rest, load_over_grpc)]
        for thread in threads:
            thread.start()
        try:
            for version in range(2, last + 1):
                add_version(base_path, version, SCALE, factor=version)
                server.wait_until_available("m", version=version)
                shutil.rmtree(base_path / str(version - 1))
            wait_for(lambda: server.states("m").get(last - 1) == "END")
            seen = over_rest.total()
            wait_for(lambda: over_rest.total() > seen + 10)
        finally:
            stop.set()
            stop_file.touch()
            for thread in threads:
                thread.join()
        assert over_grpc["errors"] == Counter()
        assert set(over_rest) <= {float(v) for v in range(1, last + 1)}, over_rest
        assert {1.0, float(last)} <= set(over_rest)
        assert {(1.0,), (float(last),)} <= set(over_grpc["answers"])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_unloading_leaves_nothing_behind(
        self, workers: int, start_server: StartServer, tmp_path: Path
    ) -> None:
        base_path = tmp_path / "m"
        flag = write_config(tmp_path / "my.config", python_config("m", base_path, workers))
        server = start_server({}, flag)
        proc = Path(f"/proc/{server.process.pid}")

        def cycle(version: int) -> None:
            add_version(base_path, version, SCALE)
            server.wait_until_available("m", version=version)
            for _ in range(3):
                assert server.predict("m", {"instances": [1.0]}).status == 200
            if workers:
                assert len(children(server.process.pid)) == workers
            shutil.rmtree(base_path / str(version))
            wait_for(lambda: server.states("m").get(version) == "END")

        def held() -> tuple[list[str], list[str], list[int]]:
            try:
                threads = [
                    (task / "comm").read_text().strip() for task in (proc / "task").iterdir()
                ]
                files = [os.readlink(file) for file in (proc / "fd").iterdir()]
            except (FileNotFoundError, ProcessLookupError):  # one of them has just ended
                return held()
            return sorted(threads), sorted(files), children(server.process.pid)

        def settled() -> tuple[list[str], list[str], list[int]]:
            """The resources once they have been stable for half a second."""
            last, since = held(), time.monotonic()
            while time.monotonic() < since + 0.5:
                time.sleep(0.05)
                if (now := held()) != last:
                    last, since = now, time.monotonic()
            return last

        cycle(1)  # NumPy and its threads stay
        before = settled()
        assert before[2] == []
        for version in (2, 3):
            cycle(version)
        assert settled() == before

    def test_a_version_that_cannot_be_loaded_says_why_and_hurts_no_other(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        base_path = tmp_path / "m"
        add_version(base_path, 1, SCALE, factor=3)
        entries = [python_config(f"m{n}", base_path, n) for n in (0, 1)]
        server = start_server({}, write_config(tmp_path / "my.config", *entries))
        server.wait_until_available("m0", "m1")
        for version, body, expected in [
            (2, "import nonsense_module", "No module named 'nonsense_module'"),
            (3, "class Model:\n  def __init__(self, d): raise OSError('disk')", "OSError: disk"),
            (4, "raise SystemExit(5)", "SystemExit: 5"),
            (5, "x = 1", "neither a class Model nor a function"),
            (6, "import asyncio\nraise asyncio.CancelledError", "CancelledError"),
            (
                7,
                "class Model:\n  def __init__(self, d): raise KeyboardInterrupt",
                "KeyboardInterrupt",
            ),
            (8, "raise type('Stop', (BaseException,), {})('now')", "Stop: now"),
            (9, CLOSES_BADLY, "a model needs an attribute `signatures`"),
        ]:
            add_version(base_path, version, body)
            for model in ("m0", "m1"):
                wait_for(lambda m=model, v=version: server.states(m).get(v) == "END")
                reply = server.get(f"/v1/models/{model}/versions/{version}")
                assert expected in json.dumps(reply.json()), reply.body
                assert server.predict(model, {"instances": [1.0]}).json() == {"predictions": [3.0]}

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_model_that_exits_while_it_is_closed_is_unloaded_all_the_same(
        self, workers: int, start_server: StartServer, tmp_path: Path
    ) -> None:
        base_path = tmp_path / "m"
        body = CLOSES_BADLY.replace("signatures = None", SIGNATURES)
        add_version(base_path, 1, body)
        flag = write_config(tmp_path / "my.config", python_config("m", base_path, workers))
        server = start_server({}, flag)
        server.wait_until_available("m")
        for version in range(2, 5):
            add_version(base_path, version, body)
            server.wait_until_available("m", version=version)
            wait_for(lambda v=version: server.states("m").get(v - 1) == "END")
            assert server.predict("m", {"instances": [1.0]}).json() == {"predictions": [1.0]}
        server.terminate()
        assert server.wait() == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_no_worker_outlives_the_server(
        self, number: signal.Signals, start_server: StartServer, tmp_path: Path
    ) -> None:
        entry = python_config("moody", MODELS / "moody", 2)
        server = start_server({}, write_config(tmp_path / "my.config", entry))
        server.wait_until_available("moody")
        workers = children(server.process.pid)
        assert len(workers) == 2
        if number == signal.SIGKILL:
            busy = threading.Thread(target=self._ignore_errors, args=(server,))
            busy.start()
            time.sleep(0.2)
        server.process.send_signal(number)
        assert server.wait() == (0 if number == signal.SIGTERM else -number)
        wait_for(lambda: not any(map(is_alive, workers)), 10)
        if number == signal.SIGKILL:
            busy.join()

    @staticmethod
    def _ignore_errors(server: ServerProcess) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            obey(server, "moody", "sleep 60")
