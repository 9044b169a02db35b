"""`servable PATH ...`: real servers that find models by themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from support.models import ROOT, add_version
from support.server_process import COMMAND, ServerProcess, free_port

WORDS = ROOT / "examples/python_model"


@pytest.fixture
def zoo(half_plus_two_version: Path, tmp_path: Path) -> Path:
    """A directory of models: a base path, two versions, and what is no model."""
    directory = tmp_path / "zoo"
    (directory / "half").mkdir(parents=True)
    add_version(directory / "half", 1, half_plus_two_version, offset=2.0)
    shutil.copytree(WORDS / "1", directory / "words")
    (directory / "table").mkdir()
    (directory / "table/table.tsv").write_text("a\t1\t2\nb\t3\t4\n")
    (directory / "README.md").touch()
    (directory / "clf.pkl").touch()
    return directory


def command(*arguments: object, status: int = 0) -> str:
    """All output of `servable` with these arguments."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def test_a_directory_of_models_is_served(zoo: Path, half_plus_two_version: Path) -> None:
    with ServerProcess([str(zoo)], directory=zoo.parent) as server:
        server.wait_until_available("half", "words", "table", version=1)
        assert server.predict("half", {"instances": [1.0]}).json() == {"predictions": [2.5]}
        assert server.predict("words", {"inputs": ["so good"]}).status == 200
        assert server.predict("table", {"inputs": ["b"]}).json() == {"outputs": [[3.0, 4.0]]}
        for line in (
            f"Found model half: tensorflow in {zoo}/half\n",
            f"Found model table: hash_map in {zoo}/table\n",
            f"Found model words: python in {zoo}/words\n",
            f"{zoo}/clf.pkl is left out: clf.pkl is a pickled object; ",
        ):
            assert line in server.log
        add_version(zoo / "half", 2, half_plus_two_version, offset=3.0)
        server.wait_until_available("half", version=2)
        assert server.predict("half", {"instances": [1.0]}).json() == {"predictions": [3.5]}


def test_flags_apply_beside_paths(zoo: Path, half_plus_two_version: Path) -> None:
    add_version(zoo / "half", 2, half_plus_two_version, offset=3.0)
    flags = [str(zoo / "half/1"), "--model_name=renamed", "--enable_batching"]
    with ServerProcess(flags, directory=zoo.parent) as server:
        server.wait_until_available("renamed", version=1)
        assert server.states("renamed") == {1: "AVAILABLE"}
        assert server.predict("renamed", {"instances": [1.0]}).json() == {"predictions": [2.5]}
        batching = server.get("/v1/models/renamed/batching").json()
        assert "off" not in json.dumps(batching)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["zoo", "--model_base_path=/m"], "zoo and --model_base_path=/m both say what to serve"),
        (["zoo", "--model_config_file=f"], "zoo and --model_config_file=f both say what to serve"),
        (["zoo", "--model_name=m"], "--model_name=m names one model, and there are 3: half, "),
        (["zoo/half", "zoo/half/1"], "are versions of the same model, half; give one of them"),
        (["./none"], "/none: No such file or directory"),
        (["zoo/clf.pkl"], "clf.pkl: clf.pkl is a pickled object; "),
        (["zoo/README.md"], "\n  a lookup table is table.tsv\n"),
        (["zoo", "--prot=1"], "unknown argument: --prot=1 (did you mean --port?)"),
        (["zoo", "zooo"], "unknown argument: zooo (there is no file or directory with this name)"),
    ],
)
def test_contradictions_are_refused(
    arguments: list[str], complaint: str, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(zoo.parent)
    status = 2 if "unknown" in complaint else 255
    assert complaint in command(*arguments, status=status)


def test_paths_permit_code_and_only_that(tmp_path: Path) -> None:
    for name in ("echo", "other", "elsewhere"):
        place = tmp_path / ("" if name == "elsewhere" else "code") / name
        shutil.copytree(WORDS, place)
    (tmp_path / "code/other/1/model.py").chmod(0o666)
    flags = [str(tmp_path / "code"), "--max_num_load_retries=0", f"--admin_api_port={free_port()}"]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("echo")
        assert server.predict("echo", {"inputs": ["so good"]}).status == 200
        server.wait_until_state("other", 1, "END")
        assert "may be written by others" in server.log
        body = {"base_path": str(tmp_path / "elsewhere"), "model_platform": "python"}
        refused = server.request(
            "PUT", "/v1/admin/models/elsewhere", json.dumps(body).encode(), port=int(flags[-1][17:])
        )
        assert refused.status == 403, refused.body
        assert "--allow_python_models" in refused.error


def test_the_other_commands_take_the_same_paths(zoo: Path) -> None:
    checked = command("check", zoo)
    for line in (
        f"half: tensorflow model in {zoo}/half\n  version 1\n    classify_x_to_y (classify): ",
        f"table: hash_map model in {zoo}/table\n  version 1\n    serving_default (predict): keys: ",
        f"words: python model in {zoo}/words\n  version 1\n    serving_default (predict): text: ",
        f"warning: {zoo}/clf.pkl is left out: clf.pkl is a pickled object; ",
        "\n0 errors, 1 warning\n",
    ):
        assert line in checked
    assert "No model is recognised in" in command("check", zoo / "clf.pkl", status=1)
    assert "both say what to serve" in command("check", zoo, "--model_base_path=/m", status=1)
    assert "0 errors" in command("check", zoo / "half", "--model_name=renamed", "--port=0",
                                 "--rest_api_port=0", f"--grpc_socket_path={zoo}/socket")  # fmt: skip
    for path in (zoo / "words", zoo / "words/model.py"):
        assert command("inspect", path).startswith(f"Model words, version 1\nin {zoo}/words\n")
    assert command("inspect", zoo, "table").startswith("Model table, version 1\n")
    several = command("inspect", zoo, status=1)
    assert several.endswith(
        f"{zoo} contains several models; give one of half, table, words as NAME\n"
    )
