"""Models of boosted trees under a running server: they answer what the Python packages of the libraries predict."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from support.boosted_models import Case, assert_same, config_flag, entry, option, predict, train
from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess

LIBRARIES = ("xgboost", "lightgbm")
BATCHING = (
    "batching { max_batch_size { value: 64 } batch_timeout_micros { value: 2000 } "
    "allowed_batch_sizes: [16, 64] }"
)


@dataclass(frozen=True)
class Served:
    """The models of a library, and a server with all of them.

    Attributes:
        library: The library, which is also the platform.
        directory: The models.
        cases: What the library predicts for them, by name.
        server: The server; `NAME-batched`, `NAME-threads` and `NAME-all` are models with other options.
    """

    library: str
    directory: Path
    cases: dict[str, Case]
    server: ServerProcess


@pytest.fixture(scope="module", params=LIBRARIES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    library = request.param
    directory = tmp_path_factory.mktemp(library)
    cases = train(library, directory / "models")
    bases = {name: directory / "models" / name for name in cases}
    entries = [entry(name, base, library) for name, base in bases.items()]
    entries.append(
        entry("iris-batched", bases["iris"], library, f"servable_options {{ {BATCHING} }}")
    )
    divided = option(threads=3, rows_per_thread=10)
    entries.append(entry("binary-threads", bases["binary"], library, divided))
    if library == "xgboost":
        entries.append(entry("stopped-all", bases["stopped"], library, option(all_rounds="true")))
    flags = [config_flag(directory / "models.config", *entries), "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=directory) as server:
        server.wait_until_available(*cases, "iris-batched", "binary-threads")
        yield Served(library, directory / "models", cases, server)
        assert server.is_running, server.log


def test_answers_over_grpc_are_those_of_the_library(
    served: Served, grpc_client: GrpcClient
) -> None:
    compared = 0
    for name, case in served.cases.items():
        for signature in case.signatures:
            found = predict(grpc_client, served.server, name, case, signature)
            assert_same(found, case.expected(signature))
            compared += 1
    assert compared > 12


def test_a_training_that_stopped_early_predicts_with_its_best_rounds(
    served: Served, grpc_client: GrpcClient
) -> None:
    case = served.cases["stopped"]
    if served.library == "xgboost":
        outputs = predict(grpc_client, served.server, "stopped-all", case, "serving_default")
        assert_same(outputs, case.expected("all_rounds"))
        assert (outputs["predictions"] != case.expected("serving_default")["predictions"]).any()


def test_answers_over_rest_are_those_of_the_library(served: Served) -> None:
    case = served.cases["binary"]
    # Missing values are NaN, as TensorFlow Serving reads and writes it in JSON.
    body = json.dumps({"instances": case.x[:40].tolist()})
    assert "NaN" in body
    rows = served.server.predict("binary", body.encode()).json()["predictions"]
    wanted = case.expected("serving_default")
    assert [row["labels"] for row in rows] == wanted["labels"][:40].tolist()
    found = np.array([row["probabilities"] for row in rows], wanted["probabilities"].dtype)
    np.testing.assert_array_equal(found, wanted["probabilities"][:40])

    case = served.cases["named"]
    row = {name: float(values[7]) for name, values in case.columns.items()}
    body = json.dumps({"signature_name": "columns", "instances": [row]})
    (value,) = served.server.predict("named", body.encode()).json()["predictions"]
    wanted = case.expected("columns")["predictions"]
    assert wanted.dtype.type(value) == wanted[7]


def test_categories_are_sent_by_name(served: Served) -> None:
    case = served.cases["categories"]
    row = {"color": "red", "size": 20, "weight": 0.5}
    index = next(
        i for i, color in enumerate(case.columns["color"]) if color == b"red"
    )  # any row with this color
    row["size"] = int(case.columns["size"][index])
    row["weight"] = float(case.columns["weight"][index])
    body = json.dumps({"signature_name": "columns", "instances": [row]})
    (value,) = served.server.predict("categories", body.encode()).json()["predictions"]
    wanted = case.expected("columns")["predictions"]
    assert wanted.dtype.type(value) == wanted[index]


def test_several_clients_at_once_get_their_answers(served: Served) -> None:
    cases = [served.cases[name] for name in ("binary", "iris", "named")]

    def ask(number: int) -> None:
        case = cases[number % 3]
        start = number % 50
        body = json.dumps({"instances": case.x[start : start + 5].tolist()})
        rows = served.server.predict(case.name, body.encode()).json()["predictions"]
        wanted = case.expected("serving_default")
        if case.name == "named":
            found = {"predictions": np.array(rows)}
        else:
            found = {name: np.array([row[name] for row in rows]) for name in wanted}
        for name, array in found.items():
            expected = wanted[name][start : start + 5]
            np.testing.assert_array_equal(array.astype(expected.dtype), expected)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(240)))


def test_requests_share_batches(served: Served) -> None:
    case = served.cases["iris"]
    wanted = case.expected("serving_default")["probabilities"]

    def ask(index: int) -> None:
        document = {"instances": [case.x[index].tolist()]}
        (row,) = served.server.predict("iris-batched", document).json()["predictions"]
        np.testing.assert_array_equal(np.array(row["probabilities"], wanted.dtype), wanted[index])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(100)))
    (version,) = served.server.get("/v1/models/iris-batched/batching").json()["versions"]
    assert version["queues"]
    refused = served.server.predict("iris-batched", {"instances": [[1.0, 2.0]]})
    assert (refused.status, refused.error) == (
        400,
        f'input "inputs": got {number_name(wanted)} of shape [1,2], want numbers of shape [n,4]',
    )


def number_name(array: np.ndarray) -> str:
    return {"float32": "float", "float64": "double"}[array.dtype.name]


def test_large_batches_are_divided_among_threads(served: Served, grpc_client: GrpcClient) -> None:
    case = served.cases["binary"]
    for signature in case.signatures:
        found = predict(grpc_client, served.server, "binary-threads", case, signature)
        assert_same(found, case.expected(signature))


def test_an_empty_batch_has_an_empty_answer(served: Served, grpc_client: GrpcClient) -> None:
    x = served.cases["iris"].x
    outputs = grpc_client.predict(served.server.port, "iris", {"inputs": x[:0]})["outputs"]
    assert (outputs["labels"].shape, outputs["probabilities"].shape) == ((0,), (0, 3))


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint8"])
def test_numbers_of_other_dtypes_are_converted(
    dtype: str, served: Served, grpc_client: GrpcClient
) -> None:
    x = np.arange(40).reshape(10, 4).astype(dtype)
    answers = [
        grpc_client.predict(served.server.port, "iris", {"inputs": each})["outputs"]
        for each in (x, x.astype("float32"))
    ]
    assert_same(*answers)


@pytest.mark.parametrize(
    ("model", "signature", "inputs", "complaint"),
    [
        (
            "iris",
            "",
            {"inputs": np.zeros((2, 3), "float32")},
            'input "inputs": got float of shape [2,3], want numbers of shape [n,4]',
        ),
        (
            "iris",
            "",
            {"inputs": np.zeros(4, "float32")},
            'input "inputs": got float of shape [4], want numbers of shape [n,4]',
        ),
        (
            "iris",
            "",
            {"inputs": np.full((1, 4), b"1", object)},
            'input "inputs": got string of shape [1,4], want numbers of shape [n,4]',
        ),
        (
            "categories",
            "columns",
            {"color": np.zeros(2), "size": np.zeros(2), "weight": np.zeros(2)},
            'input "color": got double of shape [2], want strings of shape [n] or [n,1]',
        ),
        (
            "categories",
            "columns",
            {
                "color": np.full(1, b"red", object),
                "size": np.zeros((1, 2)),
                "weight": np.zeros(1),
            },
            'input "size": got double of shape [1,2], want numbers of shape [n] or [n,1]',
        ),
        (
            "categories",
            "columns",
            {"color": np.full(1, b"red", object), "size": np.zeros(1), "weight": np.zeros(2)},
            'input "weight" has 2 rows, and input "color" 1',
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    model: str,
    signature: str,
    inputs: dict[str, np.ndarray],
    complaint: str,
    served: Served,
    grpc_client: GrpcClient,
) -> None:
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(served.server.port, model, inputs, signature=signature)
    assert (raised.value.code, raised.value.details) == ("INVALID_ARGUMENT", complaint)


def test_metadata_names_features_and_outputs(served: Served, grpc_client: GrpcClient) -> None:
    signatures = grpc_client.call("metadata", served.server.port, "categories")
    inputs = signatures["columns"]["inputs"]
    assert inputs.keys() == {"color", "size", "weight"}
    assert inputs["color"]["dtype"] == "DT_STRING"
    assert signatures["columns"]["outputs"].keys() == {"predictions"}
    signatures = grpc_client.call("metadata", served.server.port, "iris")
    shape = signatures["contributions"]["outputs"]["contributions"]["tensor_shape"]["dim"]
    assert [int(dim["size"]) for dim in shape] == [-1, 3, 5]
    document = served.server.get("/v2/models/iris").json()
    assert document["platform"] == served.library


def test_labels_and_names_come_from_the_manifest(
    served: Served, tmp_path: Path, grpc_client: GrpcClient
) -> None:
    from servable.loaders._manifest import Manifest

    case = served.cases["iris"]
    names = ("setosa", "versicolor", "virginica")
    features = tuple("abcd")
    for model, labels in {"texts": names, "numbers": (7, 8, 9), "wrong": names[:2]}.items():
        shutil.copytree(served.directory / "iris", tmp_path / model)
        manifest = Manifest("test", served.library, {}, feature_names=features, class_labels=labels)
        (tmp_path / model / "1/servable.json").write_text(manifest.to_json())
    entries = [
        entry(name, tmp_path / name, served.library) for name in ("texts", "numbers", "wrong")
    ]
    flags = [config_flag(tmp_path / "models.config", *entries), "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("texts", "numbers")
        positions = case.expected("serving_default")["labels"]
        outputs = grpc_client.predict(server.port, "texts", {"inputs": case.x})["outputs"]
        assert outputs["labels"].tolist() == [names[each].encode() for each in positions]
        outputs = grpc_client.predict(server.port, "numbers", {"inputs": case.x})["outputs"]
        assert outputs["labels"].tolist() == (positions + 7).tolist()
        signatures = grpc_client.call("metadata", server.port, "texts")
        # LightGBM's models carry names, at least of columns.
        if served.library == "xgboost":
            assert signatures["columns"]["inputs"].keys() == set(features)
        server.wait_until_state("wrong", 1, "END")
        (status,) = server.get("/v1/models/wrong").json()["model_version_status"]
        assert status["status"]["error_message"].endswith(
            "got 2 class labels, want 3 as the model has"
        )


def test_classify_answers_with_classes_and_scores(served: Served) -> None:
    case = served.cases["iris"]
    examples = [{"inputs": row.tolist()} for row in case.x[::40]]
    reply = served.server.request(
        "POST", "/v1/models/iris:classify", json.dumps({"examples": examples}).encode()
    )
    wanted = case.expected("serving_default")["probabilities"][::40].astype("float32")
    for classes, probabilities in zip(reply.json()["results"], wanted, strict=True):
        assert [label for label, _ in classes] == ["0", "1", "2"]
        assert [np.float32(score) for _, score in classes] == probabilities.tolist()


@pytest.mark.parametrize("model", ["named", "categories"])
def test_regress_takes_features_by_name(model: str, served: Served) -> None:
    case = served.cases[model]
    columns = case.columns

    def shown(value: object) -> object:
        return value.decode() if isinstance(value, bytes) else float(value)  # type: ignore[arg-type]

    examples = [
        # Without a category it is missing.
        {name: shown(values[row]) for name, values in columns.items() if values[row] != b""}
        for row in range(30)
    ]
    body = json.dumps({"examples": examples}).encode()
    reply = served.server.request("POST", f"/v1/models/{model}:regress", body)
    wanted = case.expected("columns")["predictions"][:30].astype("float32")
    assert [np.float32(value) for value in reply.json()["results"]] == wanted.tolist()
