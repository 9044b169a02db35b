"""Damaged models of boosted trees are refused, and end a process only where the library's own loader does."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.boosted_models import config_flag, entry, train
from support.load_damaged_trees import (
    DAMAGES,
    assert_crashes_are_those_of_the_library,
    damaged,
    try_damages,
)
from support.server_process import ServerProcess

PROCESS = "servable_options { process: true }"
CRASHES = 12
"""The most damages that a server loads."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    for library in ("xgboost", "lightgbm"):
        train(library, directory / library)
    return directory


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", ["binary/1/model.ubj", "iris/1/model.json"])
def test_damaged_xgboost_models_crash_only_what_they_crash_in_python(
    model: str, trained: Path, tmp_path: Path
) -> None:
    assert_crashes_are_those_of_the_library("xgboost", trained / "xgboost" / model, tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", ["binary", "categories", "linear_trees"])
def test_damaged_lightgbm_models_crash_nothing(model: str, trained: Path, tmp_path: Path) -> None:
    file = trained / "lightgbm" / model / "1/model.txt"
    found = try_damages("server", "lightgbm", file, tmp_path, range(DAMAGES))
    assert len(found.refused) > DAMAGES / 4
    assert not found.crashed


@pytest.mark.timeout(600)
def test_no_damage_ends_a_server_that_loads_it_in_a_process(trained: Path, tmp_path: Path) -> None:
    sound = trained / "xgboost/binary/1/model.ubj"
    found = try_damages("server", "xgboost", sound, tmp_path / "tried", range(DAMAGES))
    crashes = sorted(found.crashed)[:CRASHES]
    assert crashes
    entries = [entry("sound", sound.parents[1], "xgboost", PROCESS)]
    for number in crashes:
        version = tmp_path / f"m{number}/1"
        version.mkdir(parents=True)
        (version / sound.name).write_bytes(damaged(sound.read_bytes(), number))
        entries.append(entry(f"m{number}", version.parent, "xgboost", PROCESS))
    flags = [config_flag(tmp_path / "models.config", *entries), "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("sound")
        body = {"instances": [[0.0] * 30]}
        failed = 0
        for number in crashes:
            # A worker may also crash at its first request.
            reply = server.predict(f"m{number}", body)
            while server.states(f"m{number}") == {1: "LOADING"}:
                reply = server.predict(f"m{number}", body)
            failed += reply.status != 200
        assert failed
        assert server.predict("sound", body).status == 200
        assert server.is_running
