"""The examples and the guide for extensions of the package."""

from __future__ import annotations

import json
import re
import runpy
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from servable.lifecycle import Loader, ServableId
from servable.testing import RecordingTarget

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
GUIDE = ROOT / "docs/guides/extending.md"


def run(
    example: str, *arguments: object, monkeypatch: pytest.MonkeyPatch, main: bool = True
) -> dict[str, object]:
    monkeypatch.setattr(sys, "argv", [example, *map(str, arguments)])
    monkeypatch.syspath_prepend(EXAMPLES)
    return runpy.run_path(str(EXAMPLES / example), run_name="__main__" if main else "example")


def write_table(path: Path, **capitals: str) -> Path:
    path.mkdir(parents=True)
    (path / "table.json").write_text(json.dumps(capitals))
    return path


@pytest.mark.parametrize("name", ["custom_loader.py", "custom_source.py"])
def test_the_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 40


def test_a_custom_loader_serves_the_latest_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "1", France="Lyon")
    write_table(tmp_path / "2", Chad="N'Djamena", France="Paris")
    run("custom_loader.py", tmp_path, "France", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == "2 Paris\n"


def test_a_custom_source_serves_what_its_registry_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "registry"
    table = write_table(tmp_path / "anywhere", France="Paris")
    with closing(sqlite3.connect(database)) as registry, registry:
        registry.execute("CREATE TABLE released (name TEXT, version INT, path TEXT)")
        registry.execute("INSERT INTO released VALUES ('capitals', 7, ?)", [str(table)])
    run("custom_source.py", database, "capitals", "France", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == "7 Paris\n"

    source_class = run("custom_source.py", monkeypatch=monkeypatch, main=False)["RegistrySource"]
    target = RecordingTarget[Loader]()
    source = source_class(str(database))  # type: ignore[operator]
    source.connect(target)
    source.poll()
    assert [version.id for version in target.last("capitals")] == [ServableId("capitals", 7)]
    with closing(sqlite3.connect(database)) as registry, registry:
        registry.execute("DELETE FROM released")
    source.poll()
    assert target.last("capitals") == []


@pytest.mark.usefixtures("real_extension")
def test_the_guide_is_correct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks form one program; its output must be that of the `# prints …` comments."""
    monkeypatch.syspath_prepend(EXAMPLES)
    for version, city in ((1, "Lyon"), (2, "Paris")):
        write_table(tmp_path / f"capitals/{version}", France=city)
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    exec(compile(program, str(GUIDE), "exec"), {"__name__": "guide", "examples": EXAMPLES})
    promised = re.findall(r"# prints (.*)", program)
    assert promised
    assert capsys.readouterr().out.splitlines() == promised
