"""Models with operations that TensorFlow lacks: from packages, from libraries, or missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from support.op_library import (
    compile_op_library,
    compile_op_library_with_absl,
    model_that_needs,
)
from support.server_process import StartServer, model_config

_PYTHON_MODELS = Path(__file__).resolve().parents[1] / "testdata/python_models"
INDICES = {"inputs": [3, 4]}


def environment_with(site: Path) -> dict[str, str]:
    """An environment in which a directory of packages has precedence."""
    return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_an_installed_package_is_loaded_when_a_model_needs_it(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    # The layout is that of tensorflow-text; finding the package must not import it.
    package = tmp_path / "site/tensorflow_text"
    compile_op_library("TFText>X", package / "python/ops/_x.so")
    (package / "__init__.py").write_text("raise ImportError('nobody should import this')")
    model = model_that_needs("TFText>X", runtime_models / "failing", tmp_path / "model")
    server = start_server({"m": model}, environment=environment_with(tmp_path / "site"))
    server.wait_until_available("m")
    assert server.predict("m", INDICES).json() == {"outputs": [30.0, 40.0]}
    assert "Loaded the operations of tensorflow-text" in server.log


def test_a_package_that_is_not_installed_is_named(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    model = model_that_needs("SimpleML", runtime_models / "failing", tmp_path / "model")
    server = start_server({"m": model})
    assert server.wait() == 255
    assert "Op type not registered 'SimpleML' in binary" in server.log
    assert (
        "SimpleML is an operation of tensorflow-decision-forests, which is not installed: "
        "pip install tensorflow-decision-forests}" in server.log
    )


def test_a_package_that_does_not_fit_is_named_with_the_reason(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    library = tmp_path / "site/tensorflow_text/python/ops/_x.so"
    library.parent.mkdir(parents=True)
    library.write_text("not a library")
    (tmp_path / "site/tensorflow_text/__init__.py").touch()
    model = model_that_needs("TFText>Y", runtime_models / "failing", tmp_path / "model")
    server = start_server({"m": model}, environment=environment_with(tmp_path / "site"))
    assert server.wait() == 255
    assert "TFText>Y is an operation of tensorflow-text, but what is installed in" in server.log
    assert "invalid ELF header" in server.log or "file too short" in server.log
    assert "pip install 'tensorflow-text==2." in server.log


def test_libraries_of_operations_are_loaded_by_flag(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    libraries = [tmp_path / "one.so", tmp_path / "two.so"]
    for operation, library in zip(("OwnOp_01", "OwnOp_02"), libraries, strict=True):
        compile_op_library(operation, library)
    models = {
        name: model_that_needs(name, runtime_models / "failing", tmp_path / name)
        for name in ("OwnOp_01", "OwnOp_02")
    }
    server = start_server(models, f"--op_libraries={libraries[0]},{libraries[1]}")
    server.wait_until_available(*models)
    for name in models:
        assert server.predict(name, INDICES).json() == {"outputs": [30.0, 40.0]}


def test_an_operation_of_an_unknown_package_points_to_the_flag(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    model = model_that_needs("OwnOp_03", runtime_models / "failing", tmp_path / "model")
    server = start_server({"m": model})
    assert server.wait() == 255
    assert "name the library that has it with --op_libraries" in server.log


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "--op_libraries: there is no file"), ("x", "cannot be loaded into TensorFlow 2.")],
)
def test_a_library_that_cannot_be_loaded_ends_the_start(
    demo_models: Path, tmp_path: Path, start_server: StartServer, content: str | None, text: str
) -> None:
    library = tmp_path / "ops.so"
    if content is not None:
        library.write_text(content)
    server = start_server({"m": demo_models / "half_plus_two"}, f"--op_libraries={library}")
    assert server.wait() == 255
    assert text in server.log
    assert str(library) in server.log


class TestALibraryWithACopyOfAbsl:
    """The operation reads its attributes from a protobuf map that TensorFlow filled, and aborts if they are missing."""

    OPERATION = "TFText>Z"

    @pytest.fixture(scope="class")
    @classmethod
    def library(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        library = tmp_path_factory.mktemp("site") / "tensorflow_text/python/ops/_z.so"
        compile_op_library_with_absl(cls.OPERATION, library)
        (library.parents[2] / "__init__.py").touch()
        return library

    @pytest.fixture
    def model(self, runtime_models: Path, tmp_path: Path) -> Path:
        return model_that_needs(self.OPERATION, runtime_models / "failing", tmp_path / "needs")

    def test_serves_by_flag(self, library: Path, model: Path, start_server: StartServer) -> None:
        server = start_server({"m": model}, f"--op_libraries={library}")
        server.wait_until_available("m")
        assert server.predict("m", INDICES).json() == {"outputs": [30.0, 40.0]}

    def test_is_found_in_a_running_server(
        self, library: Path, model: Path, runtime_models: Path, start_server: StartServer
    ) -> None:
        model.rename(model.with_name("later"))
        server = start_server(
            {"m": model, "linear": runtime_models / "linear"},
            environment=environment_with(library.parents[3]),
        )
        server.wait_until_available("linear")
        model.with_name("later").rename(model)
        server.wait_until_available("m")
        assert server.predict("m", INDICES).json() == {"outputs": [30.0, 40.0]}

    def test_is_loaded_by_check(self, library: Path, model: Path) -> None:
        check = subprocess.run(
            [
                *(sys.executable, "-m", "servable", "check", "--load"),
                *("--model_name=m", f"--model_base_path={model}", f"--op_libraries={library}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert check.returncode == 0, check.stdout + check.stderr

    def test_leaves_openssl_to_python_models(
        self, library: Path, model: Path, tmp_path: Path, start_server: StartServer
    ) -> None:
        version = tmp_path / "later"
        shutil.copytree(_PYTHON_MODELS / "speaks_tls/1", version)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(version / "authority.pem"))
        certificate = authority.issue_cert("localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(version / "server.pem"))
        base = tmp_path / "speaks_tls"
        base.mkdir()
        config = tmp_path / "both.config"
        config.write_text(
            model_config({"m": model}).removesuffix("}\n")
            + f'config {{ name: "tls" base_path: "{base}" model_platform: "python" }}\n}}\n'
        )
        server = start_server({}, f"--model_config_file={config}", f"--op_libraries={library}")
        server.wait_until_available("m")
        # Only now is the first module imported that needs OpenSSL.
        version.rename(base / "1")
        server.wait_until_available("tls")
        assert server.predict("tls", {"inputs": [1.0]}).json() == {"outputs": [5.0]}
        assert server.predict("m", INDICES).json() == {"outputs": [30.0, 40.0]}
