"""Builds for GPUs: what a server does with them on a machine without a device, and on one with a device."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from servable.loaders._cuda import cuda_version
from support.metrics_page import monitoring_flag, scrape
from support.onnx_models import scaled, write_version
from support.server_process import ServerProcess, free_port
from support.shared_objects import compile_library

TENSORFLOW_LIBRARIES = {
    "cuda_runtime/lib/libcudart.so.12",
    "nvjitlink/lib/libnvJitLink.so.12",
    "cublas/lib/libcublasLt.so.12",
    "cublas/lib/libcublas.so.12",
    "cufft/lib/libcufft.so.11",
    "cusparse/lib/libcusparse.so.12",
    "cusolver/lib/libcusolver.so.11",
    "cudnn/lib/libcudnn.so.9",
}
MEMORY_LIMIT = "servable_gpu_memory_limit_bytes"


def package(name: str) -> Path:
    """The directory of an installed package."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def cuda_builds(directory: Path) -> None:
    """Write packages with the installed runtimes, and descriptions of builds for CUDA 12."""
    tensorflow = directory / "tensorflow"
    (tensorflow / "python/platform").mkdir(parents=True)
    (tensorflow / "__init__.py").touch()
    for library in package("tensorflow").glob("libtensorflow_*.so.2"):
        (tensorflow / library.name).symlink_to(library)
    description = "build_info = OrderedDict([('cuda_version', '12.5.1'), ('is_cuda_build', True)])"
    (tensorflow / "python/platform/build_info.py").write_text(description)
    onnxruntime = directory / "onnxruntime"
    (onnxruntime / "capi").mkdir(parents=True)
    (onnxruntime / "__init__.py").touch()
    for library in package("onnxruntime").glob("capi/libonnxruntime.so*"):
        (onnxruntime / "capi" / library.name).symlink_to(library)
    (onnxruntime / "capi/build_and_package_info.py").write_text("cuda_version = '12.8'")


def models_flag(directory: Path, demo_models: Path, *providers: str) -> str:
    """A SavedModel, and the same ONNX model for each list of providers."""
    base_path = demo_models / "half_plus_two"
    entries = [f"config {{ name: 'h' base_path: '{base_path}' model_platform: 'tensorflow' }}"]
    for number, names in enumerate(providers):
        base_path = write_version(directory / f"onnx-{number}", scaled(3)).parent
        entries.append(
            f"config {{ name: 'o{number}' base_path: '{base_path}' model_platform: 'onnx' "
            f"servable_options {{ options {{ key: 'providers' value: '{names}' }} }} }}"
        )
    file = directory / "models.config"
    file.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    return f"--model_config_file={file}"


def onnx_error(server: ServerProcess, model: str) -> str:
    server.wait_until_state(model, 1, "END")
    (version,) = server.get(f"/v1/models/{model}").json()["model_version_status"]
    message: str = version["status"]["error_message"]
    return message


@pytest.mark.parametrize("has_driver", [False, True])
def test_cuda_builds_serve_on_the_cpu_where_a_library_is_missing(
    demo_models: Path, tmp_path: Path, has_driver: bool
) -> None:
    site, driver = tmp_path / "site", tmp_path / "driver"
    cuda_builds(site)
    for library in TENSORFLOW_LIBRARIES - {"cudnn/lib/libcudnn.so.9"}:
        compile_library(site / "nvidia" / library)
    compile_library(driver / "libcuda.so.1")
    if not has_driver:
        (driver / "libcuda.so.1").write_text("not a library")
    admin_port = free_port()
    flags = [
        models_flag(tmp_path, demo_models, "cpu", "cuda,cpu"),
        monitoring_flag(tmp_path),
        f"--admin_api_port={admin_port}",
        "--max_num_load_retries=0",
    ]
    environment = {"PYTHONPATH": str(site), "LD_LIBRARY_PATH": str(driver)}
    environment["CUDA_VISIBLE_DEVICES"] = "0"
    with ServerProcess(flags, directory=tmp_path, environment=environment) as server:
        server.wait_until_available("h", "o0")
        assert server.predict("h", {"instances": [2.0]}).json() == {"predictions": [3.0]}
        assert server.predict("o0", {"instances": [[1, 2]]}).json() == {"predictions": [[3, 6]]}
        error = onnx_error(server, "o1")
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        opened = {library for library in TENSORFLOW_LIBRARIES if f"/nvidia/{library}" in maps}
        devices = server.get("/v1/admin/devices", port=admin_port).json()["devices"]
        page = scrape(server)
        log = server.log
    assert [(device["name"], device["type"]) for device in devices] == [("CPU:0", "CPU")]
    assert int(devices[0]["memory_limit_bytes"]) > 0
    assert MEMORY_LIMIT not in page
    missing = "will use no GPU: libcudnn.so.9 of the package nvidia-cudnn-cu12 is missing."
    if has_driver:
        assert opened == TENSORFLOW_LIBRARIES - {"cudnn/lib/libcudnn.so.9"}
        assert missing in log
        # The installed build has no code for GPUs.
        assert "install onnxruntime-gpu in place of onnxruntime" in error
    else:
        assert not opened
        assert missing not in log
        assert "TensorFlow uses no GPU: the driver's libcuda.so.1 cannot be opened" in log
        assert "the driver's libcuda.so.1 cannot be opened" in error


# ---- with a device

gpu_builds = pytest.mark.skipif(
    cuda_version(str(package("tensorflow") / "python/platform/build_info.py")) is None,
    reason="the installed TensorFlow is not built for CUDA",
)


def used_megabytes() -> int:
    """The memory of the first GPU that is in use."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@gpu_builds
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("flags", "most_megabytes"), [([], 2_000), (["--per_process_gpu_memory_fraction=0.2"], None)]
)
def test_a_model_runs_on_the_gpu(
    demo_models: Path, tmp_path: Path, flags: list[str], most_megabytes: int | None
) -> None:
    before, admin_port = used_megabytes(), free_port()
    flags = [
        *flags,
        models_flag(tmp_path, demo_models),
        monitoring_flag(tmp_path),
        f"--admin_api_port={admin_port}",
    ]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("h")
        assert server.predict("h", {"instances": [2.0]}).json() == {"predictions": [3.0]}
        devices = server.get("/v1/admin/devices", port=admin_port).json()["devices"]
        limits = scrape(server)[MEMORY_LIMIT]
        used = used_megabytes() - before
    assert "GPU:0" in [device["name"] for device in devices]
    limit = limits[(("device", "GPU:0"),)] / 2**20
    assert limit > 0
    if most_megabytes is None:  # the fraction is reserved at once
        assert used > 0.9 * limit
    else:
        assert used < most_megabytes


@gpu_builds
@pytest.mark.gpu
def test_gpus_can_be_hidden(demo_models: Path, tmp_path: Path) -> None:
    flags = [models_flag(tmp_path, demo_models), monitoring_flag(tmp_path)]
    environment = {"CUDA_VISIBLE_DEVICES": "-1"}
    with ServerProcess(flags, directory=tmp_path, environment=environment) as server:
        server.wait_until_available("h")
        assert MEMORY_LIMIT not in scrape(server)


@pytest.mark.gpu
def test_an_onnx_model_runs_on_the_gpu(demo_models: Path, tmp_path: Path) -> None:
    if not list(package("onnxruntime").glob("capi/libonnxruntime_providers_cuda.so")):
        pytest.skip("the installed ONNX Runtime is not built for CUDA")
    flags = [models_flag(tmp_path, demo_models, "cuda,cpu"), "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("o0")
        assert server.predict("o0", {"instances": [[1, 2]]}).json() == {"predictions": [[3, 6]]}
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libonnxruntime_providers_cuda.so" in maps
