"""Base paths with special characters, and files in place of directories."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.server_process import StartServer

NAMES = ("[", "a[b]c", "a*b", "a?b", "a\\b", "{a,b}", "a b", "a%20b", "a#b", "é", "~", "$HOME")


def test_base_paths_with_any_characters_load(
    tmp_path: Path, demo_models: Path, start_server: StartServer
) -> None:
    served = {}
    for number, name in enumerate(NAMES):
        for template in ("half_plus_two", "half_plus_two_tf2", "turtle3"):
            base_path = tmp_path / name / template
            shutil.copytree(demo_models / template, base_path)
            served[f"{template}_{number}"] = base_path
    server = start_server(served)
    server.wait_until_available(*served)
    for number in range(len(NAMES)):
        for template in ("half_plus_two", "half_plus_two_tf2"):
            reply = server.predict(f"{template}_{number}", {"instances": [2.0]})
            assert reply.json() == {"predictions": [3.0]}


def test_an_error_of_a_model_in_such_a_path_names_the_path(
    tmp_path: Path, demo_models: Path, start_server: StartServer
) -> None:
    base_path = tmp_path / "a[b]"
    shutil.copytree(demo_models / "half_plus_two", base_path)
    (data,) = base_path.glob("1/variables/*.data-*")
    data.write_bytes(b"\0" * data.stat().st_size)
    server = start_server({"m": base_path, "good": demo_models / "half_plus_two"})
    server.wait_until_state("m", 1, "END")
    (version,) = server.get("/v1/models/m").json()["model_version_status"]
    assert (
        f"TensorBundle at {base_path}/1/variables/variables" in version["status"]["error_message"]
    )


def test_a_file_as_base_path_is_explained_in_errors(
    tmp_path: Path, demo_models: Path, start_server: StartServer
) -> None:
    inside = tmp_path / "inside/1"
    inside.mkdir(parents=True)
    for file in (tmp_path / "m.keras", inside / "m.onnx"):
        file.write_bytes(b"not looked into")
    server = start_server(
        {"file": tmp_path / "m.keras", "inside": inside.parent, "good": demo_models / "turtle3"}
    )
    server.wait_until_available("good")
    reply = server.predict("file", {"instances": [1.0]})
    assert reply.status == 503
    assert "m.keras is a Keras model; write a version that is served" in reply.error
    server.wait_until_state("inside", 1, "END")
    reply = server.predict("inside", {"instances": [1.0]})
    assert "m.onnx is an ONNX model, served by `servable " in reply.error
