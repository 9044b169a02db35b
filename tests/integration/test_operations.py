"""Models with operations that TensorFlow does not have: from packages, from libraries, from nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.op_library import compile_op_library, model_that_needs
from support.server_process import StartServer

INDICES = {"inputs": [3, 4]}


def environment_with(site: Path) -> dict[str, str]:
    """An environment in which a directory of packages comes first."""
    return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_an_installed_package_is_loaded_when_a_model_needs_it(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    # Laid out as tensorflow-text is; being asked for must not import it.
    package = tmp_path / "site/tensorflow_text"
    compile_op_library("TFText_X", package / "python/ops/_x.so")
    (package / "__init__.py").write_text("raise ImportError('nobody should import this')")
    model = model_that_needs("TFText_X", runtime_models / "failing", tmp_path / "model")
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
    model = model_that_needs("TFText_Y", runtime_models / "failing", tmp_path / "model")
    server = start_server({"m": model}, environment=environment_with(tmp_path / "site"))
    assert server.wait() == 255
    assert "TFText_Y is an operation of tensorflow-text, but what is installed in" in server.log
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


def test_an_operation_of_nobody_points_to_the_flag(
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
