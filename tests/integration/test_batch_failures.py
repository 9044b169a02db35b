"""A request that fails does not affect the other requests of its batch."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from servable.batching import BatchingParameters, BatchScheduler
from servable.errors import BackendError, InvalidInputError, ServableError
from support import models
from support.metrics_page import Growth, labels, monitoring_flag
from support.server_process import Reply, ServerProcess

CLIENTS, BAD, ROUNDS = 8, 2, 20

PARAMETERS = """
max_batch_size { value: 16 }
batch_timeout_micros { value: 20000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 100 }
"""

PYTHON_MODEL = """
from servable.errors import InvalidInputError
from servable.signature import TensorSpec, serves

ROWS = {{"x": TensorSpec("float32", [None])}}

@serves(inputs=ROWS, outputs={{"y": TensorSpec("float32", [None])}}, repeatable={repeatable})
def picky(inputs):
    if (inputs["x"] < 0).any():
        raise {error}("negative")
    return {{"y": inputs["x"] * 2}}
"""

PYTHON_MODELS = {
    "python_picky": (True, "InvalidInputError"),
    "python_raising": (True, "ValueError"),
    "python_silent": (False, "InvalidInputError"),
}


@pytest.fixture(scope="module")
def batch_models(model_cache: Path) -> Path:
    """The models of export_batch_models.py."""
    return models.exported(models.BATCH_EXPORT, model_cache)


@contextlib.contextmanager
def batching(
    batch_models: Path, directory: Path, *flags: str, more: str = ""
) -> Iterator[ServerProcess]:
    """A server of all these models, whose batches are full only when all clients have sent their requests."""
    served = {
        name: ("tensorflow", batch_models / name) for name in ("picky", "counting", "composite")
    }
    for name, (repeatable, error) in PYTHON_MODELS.items():
        file = directory / name / "1/model.py"
        file.parent.mkdir(parents=True)
        file.write_text(PYTHON_MODEL.format(repeatable=repeatable, error=error))
        served[name] = ("python", directory / name)
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "{platform}" }}\n'
        for name, (platform, path) in served.items()
    )
    config, parameters = directory / "models.config", directory / "batching.config"
    config.write_text(f"model_config_list {{\n{entries}}}\n")
    parameters.write_text(PARAMETERS + more)
    arguments = (
        f"--model_config_file={config}",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        monitoring_flag(directory),
        *flags,
    )
    with ServerProcess(arguments, directory=directory) as process:
        process.wait_until_available(*served)
        yield process
        assert process.is_running, process.log


@pytest.fixture(scope="module")
def server(batch_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server that most tests use."""
    with batching(batch_models, tmp_path_factory.mktemp("failures")) as process:
        yield process


def together(ask: Callable[[int], Reply]) -> dict[str, Counter[object]]:
    """The answers of concurrent clients, round by round; the first clients send requests that fail."""
    barrier = threading.Barrier(CLIENTS)

    def client(number: int) -> Counter[object]:
        answers: Counter[object] = Counter()
        for _ in range(ROUNDS):
            barrier.wait(60)
            reply = ask(number)
            answers[reply.json()["predictions"] == [2.0 * number] or reply.status] += 1
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        counts = list(pool.map(client, range(CLIENTS)))
    return {"bad": sum(counts[:BAD], Counter()), "good": sum(counts[BAD:], Counter())}


def value(number: int) -> float:
    return -1.0 if number < BAD else float(number)


ALL_GOOD = {"bad": Counter({400: BAD * ROUNDS}), "good": Counter({True: (CLIENTS - BAD) * ROUNDS})}


def asks(server: ServerProcess, model: str, **headers: str) -> Callable[[int], Reply]:
    def ask(number: int) -> Reply:
        body = f'{{"instances": [{value(number)}]}}'.encode()
        reply = server.request("POST", f"/v1/models/{model}:predict", body, headers)
        if reply.status != 200:
            assert "negative" in reply.error or "broken" in reply.error
            return Reply(reply.status, reply.headers, b'{"predictions": null}')
        return reply

    return ask


@pytest.mark.parametrize("model", ["picky", "python_picky"])
def test_six_of_eight_clients_never_fail_because_of_the_other_two(
    server: ServerProcess, model: str
) -> None:
    growth = Growth(server)
    assert together(asks(server, model)) == ALL_GOOD
    reruns = growth("servable_batch_reruns_total")[labels(model_name=model)]
    failed = sum(growth("servable_batch_failures_total").values())
    assert growth("servable_batch_requests_rescued_total")[labels(model_name=model)] > 0
    assert failed <= reruns <= failed * (2 * CLIENTS - 2)


def test_an_exception_reaches_the_request_that_causes_it(server: ServerProcess) -> None:
    answers = together(asks(server, "python_raising"))
    assert answers["good"] == ALL_GOOD["good"]
    assert answers["bad"] == Counter({500: BAD * ROUNDS})


def test_failures_of_low_priority_requests_are_isolated_as_well(server: ServerProcess) -> None:
    headers = {"servable-priority": "low"}
    assert together(asks(server, "picky", **headers)) == ALL_GOOD


def test_failures_of_split_requests_are_isolated_as_well(
    batch_models: Path, tmp_path: Path
) -> None:
    more = "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }"

    with batching(batch_models, tmp_path, more=more) as server:

        def ask(number: int) -> Reply:
            document = {"instances": [value(number)] * 7}
            reply = server.predict("picky", document)
            if reply.status == 200:
                assert reply.json()["predictions"] == [2.0 * number] * 7
                body = f'{{"predictions": [{2.0 * number}]}}'.encode()
                return Reply(200, reply.headers, body)
            return Reply(reply.status, reply.headers, b'{"predictions": null}')

        assert together(ask) == ALL_GOOD


@pytest.mark.parametrize("model", ["counting", "python_silent"])
def test_functions_with_side_effects_run_once(server: ServerProcess, model: str) -> None:
    growth = Growth(server)
    before = runs(server)
    answers = together(asks(server, model))
    assert answers["bad"] == Counter({400: BAD * ROUNDS})
    batches = sum(growth("servable_batch_runs_total").values())
    assert growth("servable_batch_reruns_total") == {}
    if model == "counting":
        # The first run of `runs` is counted, too; the second is not yet.
        assert runs(server) - before == batches


def runs(server: ServerProcess) -> float:
    (count,) = server.predict("counting", {"instances": [1.0]}).json()["predictions"]
    return float(count)


def test_the_flag_switches_it_off(batch_models: Path, tmp_path: Path) -> None:
    with batching(batch_models, tmp_path, "--rerun_failed_batches=false") as server:
        answers = together(asks(server, "picky"))
        assert answers["good"][400] > 0
        parameters = server.get("/v1/models/picky/batching").json()["versions"][0]["parameters"]
        assert parameters["rerun_failed_batches"] is False


def test_an_error_in_a_batch_describes_its_own_request(batch_models: Path, tmp_path: Path) -> None:
    with batching(batch_models, tmp_path, more="allowed_batch_sizes: [4, 16]") as server:
        reply = server.predict("picky", {"instances": [-1.0]})
        assert reply.status == 400
        assert reply.error.endswith(" (in a batch of 4 rows; sent with shape [1])")
        # Checked against the signature before it joins a batch.
        reply = server.predict("python_picky", {"instances": [[1.0, 2.0]]})
        assert reply.error == 'input "x" of python_picky/1: got shape [1, 2], want [?]'


def test_ragged_and_sparse_outputs_are_answered_without_a_batch(server: ServerProcess) -> None:
    document = {"inputs": {"x": [1.0, 2.0]}}
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(lambda _: server.predict("composite", document), range(CLIENTS)))
    for reply in replies:
        outputs = reply.json()["outputs"]
        assert outputs["ragged.flat_values"] == [0, 1, 2]
        assert outputs["ragged.row_splits"] == [0, 1, 3]
        assert outputs["sparse.values"] == [1.0, 2.0]
        assert outputs["sparse.indices"] == [[0, 0], [0, 1]]
        assert outputs["sparse.dense_shape"] == [1, 2]
        assert outputs["y"] == [1.0, 2.0]
    report = server.get("/v1/models/composite/batching").json()["versions"][0]
    assert report["signatures_not_batched"]["serving_default"] == [
        "it has ragged or sparse values, so that its requests are run one by one"
    ]


def negatives(array: np.ndarray) -> np.ndarray:
    if (array < 0).any():
        raise ValueError("negative")
    return array * 2


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_function_is_called_again_only_if_it_is_repeatable(repeatable: bool) -> None:
    parameters = BatchingParameters(
        max_batch_size=CLIENTS, batch_timeout_micros=10_000_000, num_batch_threads=1
    )
    calls: list[int] = []

    def function(array: np.ndarray) -> np.ndarray:
        calls.append(len(array))
        return negatives(array)

    with BatchScheduler(function, parameters, repeatable=repeatable) as scheduler:

        def ask(number: int) -> object:
            try:
                return scheduler(np.array([value(number)])).tolist()
            except ServableError as error:
                return type(error)

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(ask, range(CLIENTS)))
    if repeatable:
        good = [[2.0 * number] for number in range(BAD, CLIENTS)]
        assert answers == [BackendError] * BAD + good
    else:
        assert calls == [CLIENTS]
        assert answers == [BackendError] * CLIENTS


def test_a_refusal_of_a_repeatable_function_keeps_its_kind() -> None:
    def function(array: np.ndarray) -> np.ndarray:
        if (array < 0).any():
            raise InvalidInputError("negative")
        return array

    with (
        BatchScheduler(function, repeatable=True) as scheduler,
        pytest.raises(InvalidInputError, match=r"^negative$"),
    ):
        scheduler(np.array([-1.0]))
