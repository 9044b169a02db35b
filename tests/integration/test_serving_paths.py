"""`servable PATH ...`: real servers that find models by themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
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


def command(
    *arguments: object, status: int = 0, environment: Mapping[str, str] | None = None
) -> str:
    """All output of `servable` with these arguments."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        env={**os.environ, **(environment or {})},
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
            f"Left out: {zoo}/clf.pkl: clf.pkl is a pickled object, ",
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
        (["zoo/clf.pkl"], "clf.pkl: clf.pkl is a pickled object, "),
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
        f"warning: Left out: {zoo}/clf.pkl: clf.pkl is a pickled object, ",
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


FOREIGN = """
import numpy as np

from servable.errors import Code, LoadError
from servable.loaders import FunctionLoader
from servable.platforms import Platform, declared_signatures, path_in
from servable.signature import Signature, TensorSpec

X = TensorSpec(np.float32, [None])


class Factor:
    signatures = {"serving_default": Signature({"x": X}, {"y": X})}
    is_repeatable = True

    def __init__(self, version):
        self.factor = np.float32(version.read_text())

    def run(self, signature_name, inputs, deadline):
        return {"y": inputs["x"] * self.factor}

    def close(self):
        pass


class FactorPlatform(Platform):
    contents = "a factor is one file *.factor"
    serves_files = True

    def recognises(self, files):
        return any(name.endswith(".factor") for name in files)

    def describe(self, version):
        return declared_signatures(Factor.signatures)

    def make_loader(self, servable_id, directory):
        return self.completed(FunctionLoader(servable_id, directory.path, Factor), directory)


class LostPlatform(FactorPlatform):
    contents = "a lost one is lost.txt"

    def recognises(self, files):
        return "lost.txt" in files

    def require_installed(self):
        raise LoadError("Lost is not installed; install it with `pip install lost`",
                        code=Code.FAILED_PRECONDITION)

    def describe(self, version):
        raise KeyError("lost")


def platforms(context):
    yield FactorPlatform("factor", context)
    yield LostPlatform("lost", context)
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Mapping[str, str]:
    """The environment in which a distribution adds two kinds; one has no runtime, and cannot describe anything."""
    site = tmp_path / "site"
    information = site / "foreign-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "foreign.py").write_text(FOREIGN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[servable.platforms]\nf = foreign:platforms\n")
    return {"PYTHONPATH": str(site)}


def test_kinds_of_other_distributions_are_found_and_described(
    foreign: Mapping[str, str], tmp_path: Path
) -> None:
    double = tmp_path / "all/double.factor"
    double.parent.mkdir()
    double.write_text("2")
    (tmp_path / "all/triple.factor").write_text("3")
    checked = command("check", "--load", double.parent, environment=foreign)
    assert (
        f"double: factor model in {double}\n  version 1\n    serving_default (predict): x: float32"
        in checked
    )
    assert "0 errors, 0 warnings" in checked
    inspected = command("inspect", double, environment=foreign)
    assert inspected.startswith(f"Model double, version 1\nin {double}\n")
    assert 'curl -d \'{"inputs": {"x": [1.0]}}\'' in inspected
    body = tmp_path / "body"
    body.write_text('{"instances": [1.0]}')
    refused = command("warmup", double, f"--request={body}", status=255, environment=foreign)
    assert "double.factor is a single file, and warm-up requests are beside a model" in refused
    with ServerProcess([str(double.parent)], directory=tmp_path, environment=foreign) as server:
        server.wait_until_available("double", "triple", version=1)
        assert server.predict("double", {"instances": [1.5]}).json() == {"predictions": [3.0]}
        assert server.predict("triple", {"instances": [1.5]}).json() == {"predictions": [4.5]}


def test_a_missing_runtime_is_named_with_the_command_to_install_it(
    foreign: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/lost.txt").touch()
    install = "Lost is not installed; install it with `pip install lost`"
    refused = command(tmp_path / "m", status=255, environment=foreign)
    assert refused.endswith(f"Error: FAILED_PRECONDITION: {install}\n")
    checked = command("check", tmp_path / "m", status=1, environment=foreign)
    assert f"error: {install}\n" in checked
    assert f"error: {tmp_path}/m: KeyError: 'lost'\n2 errors" in checked
    inspected = command("inspect", tmp_path / "m", status=1, environment=foreign)
    assert inspected == f"{tmp_path}/m: KeyError: 'lost'\n"
