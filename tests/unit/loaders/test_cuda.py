"""CUDA libraries of installed packages are opened before a runtime asks for them by name."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from servable.errors import Code, LoadError
from servable.loaders import _onnx, _tensorflow_gpus
from servable.loaders._cuda import cuda_version, open_cuda_libraries
from servable.loaders._onnx import OnnxOptions, cuda_libraries
from servable.loaders._tensorflow_gpus import prepare_gpus
from servable.loaders._wheels import WheelRuntime
from support.shared_objects import compile_library

OPEN = """
import ctypes, json, sys
from servable.loaders._cuda import open_cuda_libraries
version, parts, directory, names = json.loads(sys.argv[1])
def value(name):
    try:
        return getattr(ctypes.CDLL(name), name[3:].partition(".")[0])()
    except OSError:
        return None
before = [value(name) for name in names]
problems = list(open_cuda_libraries(version, parts, [directory]))
maps = open("/proc/self/maps").read()
print(json.dumps([before, problems, [value(name) for name in names], "nvblas" in maps]))
"""


def opened(version: int, parts: Sequence[str], directory: Path, *names: str) -> list[Any]:
    """Open libraries in a process of their own, since they stay open.

    Returns:
        What the libraries with these names return before, the problems, what they return after, and whether `libnvblas`
        is open.
    """
    argument = json.dumps([version, parts, str(directory), names])
    command = [sys.executable, "-c", OPEN, argument]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: list[Any] = json.loads(output)
    return result


def write_info(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "build_info.py"
    file.write_text(text)
    return file


def test_libraries_are_found_by_their_names_once_they_are_open(tmp_path: Path) -> None:
    nvidia = tmp_path / "nvidia"
    light = compile_library(nvidia / "cublas/lib/libcublasLt.so.12", 1)
    # It has no run path to the library that it needs, which sorts after it.
    compile_library(nvidia / "cublas/lib/libcublas.so.12", 2, needs=[light])
    compile_library(nvidia / "cufft/lib/libcufft.so.11", 3)
    # It would take the place of the BLAS of the process.
    compile_library(nvidia / "cublas/lib/libnvblas.so.12", 4)
    names = ["libcublasLt.so.12", "libcublas.so.12", "libcufft.so.11"]
    parts = ["cufft", "cublas", "cublasLt"]
    assert opened(12, parts, nvidia, *names) == [[None] * 3, [], [1, 2, 3], False]


@pytest.mark.parametrize(("version", "value"), [(12, 12), (13, 13)])
def test_the_version_of_cuda_decides_between_libraries_of_one_name(
    tmp_path: Path, version: int, value: int
) -> None:
    compile_library(tmp_path / "curand/lib/libcurand.so.10", 12)
    compile_library(tmp_path / "cu13/lib/libcurand.so.10", 13)
    assert opened(version, ["curand"], tmp_path, "libcurand.so.10")[2] == [value]


def test_a_missing_library_is_named_with_its_package(tmp_path: Path) -> None:
    compile_library(tmp_path / "cu13/lib/libcublas.so.13")
    assert opened(12, ["cudnn", "cublas", "cudart"], tmp_path)[1] == [
        "libcudart.so.12 of the package nvidia-cuda-runtime-cu12 is missing",
        "libcublas.so.12 of the package nvidia-cublas-cu12 is missing (found libcublas.so.13)",
        "libcudnn.so.9 of the package nvidia-cudnn-cu12 is missing",
    ]
    assert opened(13, ["cudnn", "nvrtc", "cusolver"], tmp_path)[1] == [
        "libnvrtc.so.13 of the package nvidia-cuda-nvrtc is missing",
        "libcusolver.so.12 of the package nvidia-cusolver is missing",
        "libcudnn.so.9 of the package nvidia-cudnn-cu13 is missing",
    ]


def test_a_library_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    link = compile_library(tmp_path / "nvjitlink/lib/libnvJitLink.so.12")
    compile_library(tmp_path / "cusparse/lib/libcusparse.so.12", needs=[link])
    link.unlink()
    damaged = tmp_path / "cudnn/lib/libcudnn.so.9"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("not a library")
    sparse, cudnn = opened(12, ["cusparse", "cudnn"], tmp_path)[1]
    assert sparse.startswith(
        "libcusparse.so.12 of the package nvidia-cusparse-cu12 cannot be opened: libnvJitLink.so.12: "
    )
    assert cudnn.startswith("libcudnn.so.9 of the package nvidia-cudnn-cu12 cannot be opened: ")
    assert str(tmp_path) not in cudnn


def test_nothing_is_opened_for_a_version_that_is_not_known() -> None:
    assert open_cuda_libraries(99, ["cublas"], ["/nowhere"]) == ()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("build_info = OrderedDict([('cuda_version', '12.5.1'), ('is_cuda_build', True)])", 12),
        ("package_name = 'onnxruntime-gpu'\ncuda_version = '13.0'\n", 13),
        ('cuda_version = "12.8"', 12),
        ("build_info = OrderedDict([('is_cuda_build', False)])", None),
        ("cuda_version = ''", None),
        ("\0\xff", None),
    ],
)
def test_the_version_of_cuda_is_read_from_the_description_of_a_build(
    tmp_path: Path, text: str, version: int | None
) -> None:
    assert cuda_version(str(write_info(tmp_path, text))) == version


def test_a_build_without_a_description_has_no_version_of_cuda(tmp_path: Path) -> None:
    assert cuda_version(str(tmp_path / "none.py")) is None


# ---- TensorFlow

CUDA_BUILD = "build_info = OrderedDict([('cuda_version', '12.5.1')])"


@pytest.fixture
def unchanged_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/usr/bin")


def tensorflow(directory: Path, build: str = CUDA_BUILD) -> str:
    write_info(directory / "tensorflow/python/platform", build)
    return str(directory / "tensorflow")


def pretend(
    monkeypatch: pytest.MonkeyPatch, nvidia: Path, problems: Sequence[str] = (), driver: str = ""
) -> None:
    """Replace what depends on the machine."""
    monkeypatch.setattr(_tensorflow_gpus, "driver_problem", lambda: driver or None)
    monkeypatch.setattr(_tensorflow_gpus, "open_cuda_libraries", lambda version, parts: problems)
    monkeypatch.setattr(_tensorflow_gpus, "nvidia_directories", lambda: [str(nvidia)])


@pytest.mark.usefixtures("unchanged_environment")
@pytest.mark.parametrize(
    ("build", "visible"),
    [("build_info = OrderedDict([('is_cuda_build', False)])", None), (CUDA_BUILD, "-1")],
)
def test_nothing_is_looked_for_without_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, visible: str | None
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in ("driver_problem", "open_cuda_libraries", "nvidia_directories"):
        monkeypatch.setattr(_tensorflow_gpus, name, lambda *_: pytest.fail("looked"))
    prepare_gpus(tensorflow(tmp_path, build))


@pytest.mark.usefixtures("unchanged_environment")
def test_a_machine_without_a_driver_uses_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pretend(monkeypatch, tmp_path, driver="no such file")
    monkeypatch.setattr(_tensorflow_gpus, "open_cuda_libraries", lambda *_: pytest.fail("opened"))
    prepare_gpus(tensorflow(tmp_path))
    assert "the driver's libcuda.so.1 cannot be opened: no such file" in caplog.text
    assert "XLA_FLAGS" not in os.environ


def nvcc(directory: Path) -> Path:
    """A package with the compiler."""
    package = directory / "nvidia/cuda_nvcc"
    (package / "nvvm/libdevice").mkdir(parents=True)
    (package / "bin").mkdir()
    (package / "bin/ptxas").touch(0o755)
    return package


@pytest.mark.usefixtures("unchanged_environment")
@pytest.mark.parametrize(
    ("set_by_user", "expected"),
    [
        ({}, "--xla_gpu_cuda_data_dir={package}"),
        ({"XLA_FLAGS": "--xla_dump_to=/d"}, "--xla_dump_to=/d --xla_gpu_cuda_data_dir={package}"),
        ({"XLA_FLAGS": "--xla_gpu_cuda_data_dir=/cuda"}, "--xla_gpu_cuda_data_dir=/cuda"),
        ({"XLA_FLAGS": "/etc/xla_flags"}, "/etc/xla_flags"),
    ],
)
def test_the_compiler_is_offered_to_xla(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_by_user: Mapping[str, str],
    expected: str,
) -> None:
    package = nvcc(tmp_path)
    pretend(monkeypatch, tmp_path / "nvidia")
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # the second time finds it
        prepare_gpus(tensorflow(tmp_path))
    assert os.environ["XLA_FLAGS"] == expected.format(package=package)


@pytest.mark.usefixtures("unchanged_environment")
def test_the_path_gets_the_compiler_only_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = nvcc(tmp_path)
    pretend(monkeypatch, tmp_path / "nvidia")
    other = tmp_path / "ptxas"
    other.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    prepare_gpus(tensorflow(tmp_path))
    assert os.environ["PATH"] == str(tmp_path)
    other.unlink()
    monkeypatch.setenv("PATH", "/usr/bin")
    for _ in range(2):  # the second time finds it
        prepare_gpus(tensorflow(tmp_path))
    assert os.environ["PATH"] == f"/usr/bin:{package}/bin"


@pytest.mark.usefixtures("unchanged_environment")
def test_a_path_of_several_words_is_not_offered_to_xla(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc(tmp_path / "two words")
    pretend(monkeypatch, tmp_path / "two words/nvidia")
    prepare_gpus(tensorflow(tmp_path))
    assert "XLA_FLAGS" not in os.environ


# ---- ONNX Runtime


def onnx_wheel(directory: Path, monkeypatch: pytest.MonkeyPatch, info: str) -> WheelRuntime[Any]:
    package = directory / "onnx_runtime_of_a_test"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "capi/libonnxruntime.so.1").touch()
    (package / "capi/build_and_package_info.py").write_text(info)
    monkeypatch.syspath_prepend(str(directory))
    return WheelRuntime("ORT", package.name, ["capi/libonnxruntime.so*"], "onnx", lambda path: path)


@pytest.mark.parametrize(
    ("provider", "info"), [("cpu", "cuda_version = '13.0'"), ("cuda", "package_name = 'x'")]
)
def test_onnx_runtime_opens_nothing_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, info: str
) -> None:
    monkeypatch.setattr(_onnx, "driver_problem", lambda: pytest.fail("looked"))
    with cuda_libraries(
        onnx_wheel(tmp_path, monkeypatch, info), OnnxOptions(providers=(provider,))
    ):
        pass


def test_libraries_that_onnx_runtime_lacks_are_added_to_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_onnx, "driver_problem", lambda: None)
    asked: list[int] = []
    monkeypatch.setattr(
        _onnx,
        "open_cuda_libraries",
        lambda version, parts: asked.append(version) or ["x is missing"],
    )
    runtime = onnx_wheel(tmp_path, monkeypatch, "cuda_version = '13.0'")
    options = OnnxOptions(providers=("cuda:1", "cpu"))
    failure = "Failed to load library l with error: x: cannot open shared object file"
    with (
        pytest.raises(LoadError, match=f"{failure}; x is missing$") as error,
        cuda_libraries(runtime, options),
    ):
        raise LoadError(failure, code=Code.FAILED_PRECONDITION)
    assert error.value.code is Code.FAILED_PRECONDITION
    with (
        pytest.raises(LoadError, match=r"^CUDA failure 100: no device$"),
        cuda_libraries(runtime, options),
    ):
        raise LoadError("CUDA failure 100: no device", code=Code.FAILED_PRECONDITION)
    assert not caplog.records
    with cuda_libraries(runtime, options):
        pass
    assert "operations that need them: x is missing" in caplog.text
    assert asked == [13, 13, 13]


def test_onnx_runtime_needs_a_driver_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_onnx, "driver_problem", lambda: "no such file")
    runtime = onnx_wheel(tmp_path, monkeypatch, "cuda_version = '13.0'")
    with (
        pytest.raises(
            LoadError, match=r"the driver's libcuda\.so\.1 cannot be opened: no such file"
        ),
        cuda_libraries(runtime, OnnxOptions(providers=("cuda",))),
    ):
        pytest.fail("loaded")
