"""The client guide, and the example of a user's tests, run as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from servable.errors import ServableError
from servable.signature import TensorSpec, serves
from servable.testing import ServableServer, Served, serving
from support.models import ROOT
from support.server_process import ServerProcess

pytest_plugins = ["servable.testing.pytest_plugin"]

GUIDE = ROOT / "docs/guides/client.md"
EXAMPLE = ROOT / "examples/testing_a_model"


def test_the_guide_is_correct(
    server: ServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The blocks form one program; its output must be that of the `# prints …` comments."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca.pem").write_bytes(b"")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    program = "\n".join(block for block in blocks if not block.startswith("# conftest.py"))
    program = program.replace("localhost:8500", f"localhost:{server.port}").replace("…", "key")
    names: dict[str, object] = {"__name__": "guide"}
    try:
        exec(compile(program, str(GUIDE), "exec"), names)
    finally:
        for name in ("client", "secure"):
            if name in names:
                names[name].close()  # type: ignore[attr-defined]
    promised = re.findall(r"# prints (.*)", "\n".join(blocks))
    assert len(promised) == 5
    assert capsys.readouterr().out.splitlines() == promised


def test_the_example_tests_a_model(tmp_path: Path) -> None:
    directory = tmp_path / "project"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", str(directory)],
        cwd=directory,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def doubled(inputs):  # type: ignore[no-untyped-def]
    return {"y": inputs["x"] * 2}


class TestServing:
    @pytest.mark.parametrize("part", ["", "1"], ids=["base path", "version"])
    def test_a_saved_model(
        self, part: str, demo_models: Path, servable_server: ServableServer
    ) -> None:
        served = servable_server(demo_models / "half_plus_two" / part, name="halves")
        assert served.process is not None
        assert served.model.predict([1.0]).value.tolist() == [2.5]

    def test_a_directory_with_python_code(self, servable_server: ServableServer) -> None:
        served = servable_server(ROOT / "examples/python_model/1")
        assert served.model.predict(["Good soup"]).value.tolist() == pytest.approx([0.5])

    def test_several_at_once(self, servable_server: ServableServer) -> None:
        found: list[Served] = [servable_server(doubled, name=name) for name in "ab"]
        assert [s.model.predict([2.0]).value.tolist() for s in found] == [[4.0], [4.0]]

    def test_python_code_runs_in_the_process_of_the_test(self) -> None:
        seen = []

        @serves(inputs={"x": TensorSpec("float32")}, outputs={"y": TensorSpec("float32")})
        def noting(inputs):  # type: ignore[no-untyped-def]
            seen.append(inputs["x"].tolist())
            return {"y": inputs["x"]}

        with serving(noting) as served:
            served.model.predict([1.0])
        assert seen == [[1.0]]

    def test_what_cannot_be_served_says_why(self, tmp_path: Path) -> None:
        with (
            pytest.raises(ServableError, match="a model needs an attribute `signatures`"),
            serving(object()),
        ):
            pass
        with (
            pytest.raises(ServableError, match="No such file or directory"),
            serving(tmp_path / "none"),
        ):
            pass
