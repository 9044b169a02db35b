"""The loader of Python models, and the callable that it passes across the border."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable._server.border.gateway import Servable
from servable.errors import BackendError, FailedPreconditionError, LoadError, NotFoundError
from servable.lifecycle import ServableId
from servable.loaders._arrays import for_border
from servable.loaders._python_callable import PythonCallableLoader, PythonOptions
from servable.signature import Signature, TensorSpec

MODEL = """
from servable.signature import TensorSpec, serves

@serves(inputs={"x": TensorSpec("float32")}, outputs={"y": TensorSpec("float32")}, name=NAME)
def echo(inputs):
    return {"y": inputs["x"]}
"""


def loader(path: Path, workers: int = 0) -> Any:
    return PythonCallableLoader(ServableId("m", 1), str(path), PythonOptions(workers))


@pytest.mark.usefixtures("real_extension")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_version_is_loaded_and_unloaded(workers: int, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(f"NAME = 'one'\n{MODEL}")
    version = loader(tmp_path, workers)
    with pytest.raises(FailedPreconditionError, match="is not loaded"):
        _ = version.servable
    for _ in range(2):
        version.load()
        assert version.servable.wait_until_idle(0)
        version.unload()
    version.unload()


@pytest.mark.usefixtures("real_extension")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signature_that_cannot_be_served_is_refused(workers: int, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(f"NAME = 'a/b'\n{MODEL}")
    before = set(sys.modules)
    with pytest.raises(LoadError, match='signature "a/b": its name must not contain'):
        loader(tmp_path, workers).load()
    assert not {name for name in set(sys.modules) - before if "model" in name}


def test_the_estimate_is_the_size_of_the_files_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 100)
    assert loader(tmp_path).estimate_resources() == 100
    assert loader(tmp_path, 3).estimate_resources() == 300
    with pytest.raises(NotFoundError, match="gone: No such file or directory"):
        loader(tmp_path / "gone").estimate_resources()


def test_without_numpy_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_numpy(name: str, *arguments: Any) -> Any:
        if name == "numpy":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "servable.loaders._arrays")
    monkeypatch.setattr(builtins, "__import__", without_numpy)
    with pytest.raises(LoadError, match="install it with `pip install numpy`"):
        loader(tmp_path).load()


@pytest.mark.usefixtures("real_extension")
def test_the_border_refuses_a_dtype_that_it_does_not_know() -> None:
    class Odd:
        data_type, shape = 20, None

    signature = Signature({}, {"y": TensorSpec("int8")})
    signature.outputs["y"] = Odd()  # type: ignore[index]
    with pytest.raises(ValueError, match="resource is not supported"):
        Servable.from_python("m/1", {"s": signature}, lambda *call: {}, 1, 0.0)


@pytest.mark.parametrize(
    ("dtype", "output", "number", "elements"),
    [
        ("int32", np.array([[1, 2], [3, 4]], ">i4").T, 3, [[1, 3], [2, 4]]),
        ("float64", np.float64(1.5), 2, 1.5),
        ("bool", [True, False], 10, [True, False]),
        ("bytes", ["é", b"x"], 7, ["é".encode(), b"x"]),
        ("bytes", "one", 7, [b"one"]),
        ("bytes", np.array(["ab", "c"]), 7, [b"ab", b"c"]),
        # Safe casts of NumPy.
        ("int64", np.array([1, -2], "int32"), 9, [1, -2]),
        ("float64", np.array([1.5], "float32"), 2, [1.5]),
        ("float64", np.array([1], "int32"), 2, [1.0]),
        ("complex64", np.array([1.5], "float32"), 8, [1.5]),
        ("int8", np.array([True]), 6, [1]),
        ("uint16", np.array([3], "uint8"), 17, [3]),
        # Plain values have no dtype, so it cannot be wrong.
        ("float32", [1, 2.5], 1, [1.0, 2.5]),
        ("float32", 2, 1, 2.0),
        ("int8", [[1, -128]], 6, [[1, -128]]),
        ("float16", (np.inf, 1), 19, [np.inf, 1.0]),
        ("complex128", [1j], 18, [1j]),
        ("int8", [], 6, []),
        # Values that must be refused are passed on unchanged.
        ("int32", np.array([1], "int64"), 9, [1]),
        ("float32", np.array([1.5], "float64"), 2, [1.5]),
        ("float32", np.float64(1.5), 2, 1.5),
        ("float32", np.array([1], "int32"), 3, [1]),
        ("uint8", np.array([1], "int8"), 6, [1]),
        ("int8", [128], 9, [128]),
        ("int8", [1.0], 2, [1.0]),
        ("uint8", [-1], 9, [-1]),
        ("float32", [1e300], 2, [1e300]),
        ("float32", ["a"], 7, [b"a"]),
        ("bytes", [1], 9, [1]),
        ("bool", [1], 9, [1]),
    ],
)
def test_outputs_are_brought_into_the_form_of_the_border(
    dtype: str, output: Any, number: int, elements: Any
) -> None:
    run = for_border(
        "m/1", {"s": Signature({}, {"y": TensorSpec(dtype)})}, lambda *_: {"y": output}
    )
    found_number, shape, found = run("s", {}, None)["y"]
    assert (found_number, shape) == (number, np.shape(output))
    if number == 7:
        assert found == elements
    else:
        assert found.tolist() == elements
        assert found.flags.c_contiguous
        assert found.dtype.isnative


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ([1], "outputs of m/1: got list, want a dict of arrays by name"),
        ({"y": np.zeros(1, "datetime64[s]")}, 'output "y" of m/1: got dtype datetime64'),
        ({"y": np.array([1], object)}, "got an element of type int, want bytes"),
    ],
)
def test_outputs_that_are_no_tensors_are_refused(output: Any, complaint: str) -> None:
    run = for_border("m/1", {"s": Signature({}, {"y": TensorSpec("int8")})}, lambda *_: output)
    with pytest.raises(BackendError, match=complaint):
        run("s", {}, 1.0)


def test_outputs_are_cast_to_and_from_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")  # comes with TensorFlow
    for dtype, output, number in (
        ("bfloat16", [1.5, 2], 14),
        ("bfloat16", np.array([1], "int8"), 14),
        ("float32", np.array([1.5], ml_dtypes.bfloat16), 1),
        ("bfloat16", np.array([1.5], "float32"), 1),
    ):
        signature = Signature({}, {"y": TensorSpec(dtype)})
        run = for_border("m/1", {"s": signature}, lambda *_, output=output: {"y": output})
        assert run("s", {}, None)["y"][0] == number, (dtype, output)
