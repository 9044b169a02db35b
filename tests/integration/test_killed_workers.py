"""Worker processes of each native kind that are killed, or run out of memory, while all models are asked."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import models
from support.grpc_client import GrpcClient, RpcError
from support.onnx_models import scaled, write_version
from support.server_process import ServerProcess

TRAIN = {
    "xgboost": (
        "import sys, xgboost; from sklearn.datasets import load_iris; x, y = load_iris(return_X_y=True); "
        "xgboost.XGBClassifier(n_estimators=3).fit(x, y).save_model(sys.argv[1] + '/model.ubj')"
    ),
    "lightgbm": (
        "import sys, lightgbm; from sklearn.datasets import load_iris; x, y = load_iris(return_X_y=True); "
        "booster = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(x, y).booster_; "
        "booster.save_model(sys.argv[1] + '/model.txt')"
    ),
}


@dataclass(frozen=True)
class Kind:
    """A native kind of servable.

    Attributes:
        platform: Its name.
        input: The name of its input.
        width: The number of columns of a row; 0 for a vector.
        body: A request.
    """

    platform: str
    input: str
    width: int
    body: Any

    def rows(self, megabytes: int) -> np.ndarray[Any, Any]:
        """An input of that size."""
        count = megabytes << 18
        return np.ones((count // self.width, self.width) if self.width else count, np.float32)


KINDS = {
    "tensorflow": Kind("tensorflow", "x", 0, {"instances": [1.0, 2.0]}),
    "onnx": Kind("onnx", "x", 2, {"instances": [[1, 2]]}),
    "tflite": Kind("tflite", "x", 4, {"instances": [[1, 2, 3, 4]]}),
    "lightgbm": Kind("lightgbm", "inputs", 4, {"instances": [[5.1, 3.5, 1.4, 0.2]]}),
    "xgboost": Kind("xgboost", "inputs", 4, {"instances": [[5.1, 3.5, 1.4, 0.2]]}),
}
HERE = "here"
"""A model that the server runs itself."""


@dataclass(frozen=True)
class Served:
    """A server with a model of each kind, and their answers.

    Attributes:
        server: The server.
        answers: The answer of each model to its request.
    """

    server: ServerProcess
    answers: dict[str, Any]

    def ask(self, name: str) -> int:
        """The status of a request; if it is 200, the answer is right."""
        reply = self.server.predict(name, KINDS["onnx" if name == HERE else name].body)
        if reply.status == 200:
            assert reply.json() == self.answers[name], name
        return reply.status

    def worker(self, name: str) -> int:
        """The process that runs a model; 0 if there is none."""
        for children in Path(f"/proc/{self.server.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for pid in children.read_text().split():
                    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                    if "servable.loaders._worker" in command and f"{name}/1" in command:
                        return int(pid)
        return 0


def base_path(kind: str, directory: Path, demo_models: Path, model_cache: Path) -> Path:
    if kind == "tensorflow":
        return demo_models / "half_plus_two"
    if kind == "tflite":
        script = models.ROOT / "tests/testdata/convert_tflite_models.py"
        return models.exported(script, model_cache) / "linear"
    if kind == "onnx":
        return write_version(directory / kind, scaled(2)).parent
    version = directory / kind / "1"
    version.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", TRAIN[kind], str(version)], check=True)
    return version.parent


@pytest.fixture(scope="module")
def served(
    demo_models: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("killed")
    entries = []
    for name in (*KINDS, HERE):
        kind = KINDS["onnx" if name == HERE else name]
        path = base_path(kind.platform, directory / name, demo_models, model_cache)
        entries.append(
            f'config {{ name: "{name}" base_path: "{path}" model_platform: "{kind.platform}" '
            f"servable_options {{ process: {str(name != HERE).lower()} }} }}"
        )
    config = directory / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    flags = [f"--model_config_file={config}", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=directory) as server:
        server.wait_until_available(*KINDS, HERE)
        answers = {}
        for name in (*KINDS, HERE):
            reply = server.predict(name, KINDS["onnx" if name == HERE else name].body)
            assert reply.status == 200, reply.body
            answers[name] = reply.json()
        yield Served(server, answers)
        assert server.is_running, server.log


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def asked_all_the_time(served: Served) -> Iterator[dict[str, Counter[int]]]:
    """Ask all models until the end of the block; counts the statuses of their answers."""
    stop = threading.Event()
    seen: dict[str, Counter[int]] = {name: Counter() for name in (*KINDS, HERE)}

    def ask(name: str) -> None:
        while not stop.is_set():
            seen[name][served.ask(name)] += 1

    with ThreadPoolExecutor(len(seen)) as pool:
        threads = [pool.submit(ask, name) for name in seen]
        try:
            wait_for(lambda: all(counts[200] > 5 for counts in seen.values()))
            yield seen
        finally:
            stop.set()
        for thread in threads:
            thread.result()


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_worker_is_replaced_and_other_models_notice_nothing(
    kind: str, served: Served
) -> None:
    victim = served.worker(kind)
    with asked_all_the_time(served) as seen:
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: served.worker(kind) not in (victim, 0))
        before = seen[kind][200]
        wait_for(lambda: seen[kind][200] > before + 5)
    assert set(seen[kind]) <= {200, 503}
    for name, statuses in seen.items():
        assert name == kind or set(statuses) == {200}, (name, statuses)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_without_memory_fails_its_requests_and_no_others(
    kind: str, served: Served, grpc_client: GrpcClient
) -> None:
    port, victim = served.server.port, served.worker(kind)
    name = KINDS[kind].input
    used = int(Path(f"/proc/{victim}/statm").read_text().split()[0]) * resource.getpagesize()
    codes: Counter[str] = Counter()
    with asked_all_the_time(served) as seen:
        resource.prlimit(victim, resource.RLIMIT_AS, (used, used))
        for _ in range(3):
            try:
                grpc_client.predict(port, kind, {name: KINDS[kind].rows(48)})
                codes["OK"] += 1
            except RpcError as error:
                codes[error.code] += 1
        # The kernel would end a worker that needs more memory than there is.
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: served.worker(kind) not in (victim, 0))
        before = seen[kind][200]
        wait_for(lambda: seen[kind][200] > before + 5)
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE"}, codes
    assert codes["OK"] < 3, "the limit had no effect"
    assert set(seen[kind]) <= {200, 429, 500, 503}
    for model, statuses in seen.items():
        assert model == kind or set(statuses) == {200}, (model, statuses)
    answer = grpc_client.predict(port, kind, {name: KINDS[kind].rows(48)})
    assert answer["outputs"]
