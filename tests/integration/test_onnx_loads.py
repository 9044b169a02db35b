"""ONNX versions that are incomplete, damaged, or not for the installed runtime, under a running server."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import onnx
import pytest
from onnx import helper

from servable.errors import ServableError
from support.onnx_models import (
    large,
    scaled,
    write_version,
)
from support.server_process import COMMAND, StartServer


def config(file: Path, base_path: Path) -> str:
    file.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        'model_platform: "onnx" } }'
    )
    return f"--model_config_file={file}"


def external(directory: Path) -> Path:
    """A model with its weights in another file."""
    directory.mkdir(parents=True)
    onnx.save(
        large(16, 2),
        directory / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return directory


def test_a_version_waits_for_its_external_data(tmp_path: Path, start_server: StartServer) -> None:
    whole, base_path = external(tmp_path / "whole"), tmp_path / "m"
    shutil.copytree(whole, base_path / "1")
    server = start_server({}, config(tmp_path / "models.config", base_path))
    server.wait_until_available("m")
    second = base_path / "2"
    second.mkdir()
    weights = (whole / "weights.bin").read_bytes()
    shutil.copyfile(whole / "model.onnx", second / "model.onnx")
    (second / "weights.bin").write_bytes(weights[:100])
    # Longer than a complete version takes to settle, and shorter than an incomplete one is held back.
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert {v: s for v, s in server.states("m").items() if s != "END"} == {1: "AVAILABLE"}
        time.sleep(0.2)
    (second / "weights.bin").write_bytes(weights)
    server.wait_until_available("m", version=2)
    assert server.predict("m", {"instances": [[1.0] * 16]}).status == 200


@pytest.mark.parametrize("location", ["../../outside.bin", "/etc/passwd", "link.bin"])
def test_external_data_outside_the_version_are_refused(
    location: str, tmp_path: Path, start_server: StartServer
) -> None:
    write_version(tmp_path / "m", scaled(1))
    flag = config(tmp_path / "models.config", tmp_path / "m")
    server = start_server({}, flag, "--max_num_load_retries=0")
    server.wait_until_available("m")
    version = external(tmp_path / "m/writing")
    shutil.copyfile(version / "weights.bin", tmp_path / "outside.bin")
    (version / "link.bin").symlink_to("../../outside.bin")
    model = onnx.load(version / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (version / "model.onnx").write_bytes(model.SerializeToString())
    version.rename(tmp_path / "m/2")
    server.wait_until_state("m", 2, "END")
    (status,) = server.get("/v1/models/m/versions/2").json()["model_version_status"]
    assert status["status"]["error_code"] == "INVALID_ARGUMENT"
    assert server.predict("m", {"instances": [[1, 2]]}).status == 200
    assert f"external data {location!r} are" in status["status"]["error_message"]
    assert "the directory of the model" in status["status"]["error_message"]


def test_inspect_shows_what_the_file_tells(tmp_path: Path) -> None:
    model = scaled(2)
    model.producer_name, model.producer_version, model.domain = "maker", "2.5", "com.acme"
    helper.set_model_props(model, {"author": "Ada", "note": "two\nlines\x1b[31m", "é": "x" * 3000})
    version = write_version(tmp_path / "m", model)
    shown = subprocess.run(
        [COMMAND, "inspect", str(version)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    header = shown.partition("\nSignature serving_default")[0].splitlines()
    assert header[2:] == [
        "format: ONNX IR version 10",
        "operator sets: ai.onnx 21",
        "producer: maker 2.5",
        "domain: com.acme",
        "metadata author: Ada",
        r"metadata note: two\nlines\x1b[31m",
        f"metadata é: {'x' * 500} ...",
    ]


OLD_RUNTIME = r"""
#include <stdint.h>
#include <stddef.h>
static const void *get_api(uint32_t version) { return version > 14 ? NULL : (const void *)1; }
static const char *version(void) { return "1.14.1"; }
static const struct { const void *(*get_api)(uint32_t); const char *(*version)(void); } base = {get_api, version};
const void *OrtGetApiBase(void) { return &base; }
"""


def test_a_runtime_that_is_too_old_is_named_with_what_is_wanted(tmp_path: Path) -> None:
    from servable._server.border.gateway import OnnxRuntime

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no compiler cc")
    library, source = tmp_path / "libonnxruntime.so", tmp_path / "old.c"
    source.write_text(OLD_RUNTIME)
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    with pytest.raises(ServableError) as raised:
        OnnxRuntime(str(library))
    wanted = "has version 1.14.1, want 1.15 or later of the same major version"
    assert wanted in raised.value.message
