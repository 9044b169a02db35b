"""Versions that are served only when they are complete, though parts arrive earlier."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from support.partial_versions import (
    GRAPH,
    LINEAR,
    PARTS,
    REFERENCE,
    complete,
    copy_part,
    served_versions,
)
from support.server_process import StartServer


def test_a_version_is_served_when_the_rest_of_it_arrives(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    models = {f"m{number}": part for number, part in enumerate(PARTS)}
    for name, (kind, _) in models.items():
        shutil.copytree(runtime_models / kind / "1", tmp_path / name / "1")
    server = start_server({name: tmp_path / name for name in models})
    server.wait_until_available(*models)
    started = time.monotonic()
    for name, (kind, parts) in models.items():
        copy_part(runtime_models / kind / "1", tmp_path / name / "2", parts)
    # Longer than a complete version takes to settle, and shorter than an incomplete one is held back.
    while time.monotonic() < started + 4:
        for name, part in models.items():
            assert served_versions(server, name) == {1: "AVAILABLE"}, part
        time.sleep(0.2)
    for name, (kind, _) in models.items():
        complete(runtime_models / kind / "1", tmp_path / name / "2")
    server.wait_until_available(*models, version=2)


def test_a_version_that_needs_no_other_file_is_served_without_one(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    # "steps" is a graph of TensorFlow 2 without variables, which has an index all the same.
    for model in ("steps", "failing"):
        target = tmp_path / model / "1"
        target.mkdir(parents=True)
        shutil.copyfile(runtime_models / model / "1" / GRAPH, target / GRAPH)
    server = start_server({model: tmp_path / model for model in ("steps", "failing")})
    server.wait_until_available("steps", "failing")


def test_a_version_whose_variables_do_not_come_fails_and_is_tried_again_when_they_do(
    runtime_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    models = {"one": REFERENCE, "two": LINEAR}
    for name, kind in models.items():
        shutil.copytree(runtime_models / kind / "1", tmp_path / name / "1")
    # The default retry is after a minute; missing files must be noticed earlier.
    server = start_server({name: tmp_path / name for name in models}, "--max_num_load_retries=5")
    server.wait_until_available(*models)
    for name, kind in models.items():
        copy_part(runtime_models / kind / "1", tmp_path / name / "2", [GRAPH])
    deadline = time.monotonic() + 60
    while server.log.count("has no variables/variables.index, from which its graph") < 2:
        assert time.monotonic() < deadline, server.log
        for name in models:
            assert server.states(name)[1] == "AVAILABLE"
        time.sleep(0.2)
    for name, kind in models.items():
        assert server.states(name)[1] == "AVAILABLE"
        complete(runtime_models / kind / "1", tmp_path / name / "2")
    server.wait_until_available(*models, version=2)
