"""Pickled estimators: refused, unless the configuration trusts them; then a worker process reads them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servable
from servable.client import Client
from servable.errors import Code, LoadError
from support.server_process import COMMAND, ServerProcess

X = np.random.default_rng(0).random((30, 4))


@pytest.fixture(scope="session")
def classifier() -> Any:
    linear_model = pytest.importorskip("sklearn.linear_model")
    return linear_model.LogisticRegression().fit(X, np.array(["no", "yes"])[(X[:, 0] > 0.5) * 1])


def dump(model: Any, file: Path) -> None:
    import joblib

    if file.suffix == ".joblib":
        joblib.dump(model, file)
    else:
        file.write_bytes(pickle.dumps(model))


def config(base_path: Path, platform: str, *, trusted: bool) -> str:
    options = "servable_options { trusted: true }" if trusted else ""
    return (
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        f'model_platform: "{platform}" {options} }} }}'
    )


@pytest.fixture
def start(tmp_path: Path) -> Any:
    servers: list[ServerProcess] = []

    def start(text: str) -> ServerProcess:
        file = tmp_path / "models.config"
        file.write_text(text)
        flags = [f"--model_config_file={file}", "--max_num_load_retries=0"]
        servers.append(ServerProcess(flags, directory=tmp_path))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


class RunsCode:
    """An object that writes the number of the process that unpickles it, and becomes an estimator."""

    def __init__(self, model: Any, file: Path) -> None:
        self._arguments = (pickle.dumps(model), str(file))

    def __reduce__(self) -> Any:
        data, file = self._arguments
        program = (
            f"(__import__('pathlib').Path({file!r}).write_text(str(__import__('os').getpid())), "
            f"__import__('pickle').loads({data!r}))[1]"
        )
        return eval, (program,)


def test_a_pickle_is_refused_and_its_code_is_not_run(
    classifier: Any, tmp_path: Path, start: Callable[[str], ServerProcess]
) -> None:
    version, trace = tmp_path / "m/1", tmp_path / "trace"
    version.mkdir(parents=True)
    dump(RunsCode(classifier, trace), version / "model.pkl")
    server = start(config(tmp_path / "m", "pickle", trusted=False))
    assert server.wait() == 255
    assert "PERMISSION_DENIED: " in server.log
    assert "is a pickled object: reading it runs any code" in server.log
    assert "Save the model with `servable.save`" in server.log
    with pytest.raises(LoadError, match="is a pickled object") as raised:
        servable.load(tmp_path / "m")
    assert raised.value.code is Code.PERMISSION_DENIED
    subprocess.run([COMMAND, "inspect", tmp_path / "m"], capture_output=True, check=False)
    command = [COMMAND, "check", tmp_path / "m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "error: " in done.stdout
    assert "is a pickled object: reading it runs any code" in done.stdout
    assert not trace.exists()


@pytest.mark.parametrize("name", ["model.pkl", "model.pickle", "model.joblib"])
def test_a_trusted_pickle_runs_in_a_worker(
    name: str, classifier: Any, tmp_path: Path, start: Callable[[str], ServerProcess]
) -> None:
    version, trace = tmp_path / "m/1", tmp_path / "trace"
    version.mkdir(parents=True)
    dump(RunsCode(classifier, trace), version / name)
    server = start(config(tmp_path / "m", "pickle", trusted=True))
    server.wait_until_available("m")
    assert int(trace.read_text()) != server.process.pid
    for address in (f"grpc://localhost:{server.port}", f"http://localhost:{server.rest_port}"):
        with Client(address) as client:
            answer = client.model("m").predict({"inputs": X})
        labels = [each.decode() if isinstance(each, bytes) else each for each in answer["labels"]]
        assert labels == classifier.predict(X).tolist()
        np.testing.assert_allclose(answer["probabilities"], classifier.predict_proba(X))


def test_a_trusted_pickle_is_loaded_in_a_program(classifier: Any, tmp_path: Path) -> None:
    dump(classifier, tmp_path / "model.joblib")
    with servable.load(tmp_path, trusted=True) as model:
        assert model.platform == "pickle"
        assert model(X)["labels"].tolist() == [e.encode() for e in classifier.predict(X)]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda model: {"a": 1}, "got a dict whose inputs are unknown"),
        (lambda model: b"", "cannot load .*: "),
    ],
)
def test_what_is_no_estimator_is_refused(
    make: Callable[[Any], Any], complaint: str, classifier: Any, tmp_path: Path
) -> None:
    made = make(classifier)
    (tmp_path / "model.pkl").write_bytes(made if made == b"" else pickle.dumps(made))
    with pytest.raises(LoadError, match=complaint):
        servable.load(tmp_path, trusted=True)


def test_another_release_of_the_library_is_refused(classifier: Any, tmp_path: Path) -> None:
    import sklearn

    data = pickle.dumps(classifier)
    old = ".".join("0" * len(part) for part in sklearn.__version__.split("."))
    assert sklearn.__version__.encode() in data
    (tmp_path / "model.pkl").write_bytes(data.replace(sklearn.__version__.encode(), old.encode()))
    with pytest.raises(LoadError) as raised:
        servable.load(tmp_path, trusted=True)
    assert f"from version {old} when using version {sklearn.__version__}" in raised.value.message


@pytest.mark.slow
def test_an_estimator_without_a_conversion_is_saved_by_skops(
    tmp_path: Path, start: Callable[[str], ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    frameworks = Path(sys.prefix) / "frameworks"
    if not (frameworks / "skops").is_dir():
        pytest.skip(f"there is no {frameworks}/skops; `make test-all` installs it")
    monkeypatch.syspath_prepend(str(frameworks))
    others = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(frameworks), others]))
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    model = VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft")
    model.fit(X, (X[:, 0] > 0.5) * 1)
    with pytest.warns(UserWarning, match="VotingClassifier cannot be converted to ONNX"):
        version = servable.save(model, tmp_path / "m", example=X)
    assert (version / "model.skops").exists()
    with servable.load(version) as loaded:
        assert (loaded.kind, loaded.platform) == ("sklearn", "skops")
        assert loaded(X)["labels"].tolist() == model.predict(X).tolist()
    # Columns keep their order, which is not that of their names.
    columns = dict(zip("dcba", X.T, strict=True))
    with pytest.warns(UserWarning, match="VotingClassifier cannot be converted to ONNX"):
        version = servable.save(model, tmp_path / "columns", example=columns)
    with servable.load(version) as loaded:
        assert loaded(columns)["labels"].tolist() == model.predict(X).tolist()
    server = start(config(tmp_path / "m", "skops", trusted=False))
    server.wait_until_available("m")
    with Client(f"grpc://localhost:{server.port}") as client:
        answer = client.model("m").predict({"inputs": X})
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(X))
