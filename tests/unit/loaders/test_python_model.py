from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from servable.errors import Code, InvalidInputError, LoadError
from servable.loaders._python_model import load_python_model

HEAD = """
from servable.signature import Signature, TensorSpec, serves
Y = {"y": TensorSpec("int64")}
"""


def write(directory: Path, body: str, name: str = "model.py") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(HEAD + body)
    return directory


def run(model: Any, signature: str = "serving_default") -> Any:
    return model.run(signature, {"x": 1}, deadline=5.0)


def test_functions_are_found_by_their_declaration(tmp_path: Path) -> None:
    write(
        tmp_path,
        "@serves(inputs={}, outputs=Y)\ndef first(inputs): return 'first', inputs\n"
        "@serves(inputs={}, outputs=Y, name='b')\n"
        "def second(inputs, deadline): return 'second', deadline\n"
        "@serves(inputs={}, outputs=Y, name='c')\ndef third(inputs, **more): return more\n"
        "def helper(): pass\n",
    )
    model = load_python_model(tmp_path)
    assert set(model.signatures) == {"serving_default", "b", "c"}
    assert run(model) == ("first", {"x": 1})
    assert run(model, "b") == ("second", 5.0)
    assert run(model, "c") == {"signature_name": "c", "deadline": 5.0}


def test_a_class_is_made_once_and_closed(tmp_path: Path) -> None:
    write(
        tmp_path,
        "class Model:\n"
        "    signatures = {'s': Signature({}, Y)}\n"
        "    def __init__(self, directory): self.directory = directory\n"
        "    def run(self, inputs): return self.directory\n"
        "    def close(self): (self.directory / 'closed').touch()\n",
    )
    model = load_python_model(tmp_path)
    assert run(model, "s") == tmp_path
    model.close()
    assert (tmp_path / "closed").exists()


def test_each_version_has_its_own_code_and_leaves_none_behind(tmp_path: Path) -> None:
    body = (
        "from .number import NUMBER\n@serves(inputs={}, outputs=Y)\ndef f(inputs): return NUMBER\n"
    )
    before = set(sys.modules)
    models = []
    for version in (1, 2):
        directory = write(tmp_path / str(version), body)
        (directory / "number.py").write_text(f"NUMBER = {version}\n")
        models.append(load_python_model(directory))
    write(tmp_path / "1", body + "\nraise ValueError('changed after it was loaded')\n")
    assert [run(model) for model in models] == [1, 2]
    assert len(set(sys.modules) - before) == 4
    for model in models:
        model.close()
    assert set(sys.modules) == before
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["model.py", "number.py"]


def test_an_entry_point_names_something_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path / "code",
        "class Outer:\n"
        "    class Model:\n"
        "        signatures = {'s': Signature({}, Y)}\n"
        "        def __init__(self, directory): self.directory = directory\n"
        "        def run(self, inputs): return self.directory\n"
        "@serves(inputs={}, outputs=Y)\ndef function(inputs): return inputs\n",
        "importable_model.py",
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "importable_model", raising=False)
    version = tmp_path / "1"
    version.mkdir()
    (version / "entry_point.txt").write_text("importable_model:Outer.Model\n")
    assert run(load_python_model(version), "s") == version
    (version / "entry_point.txt").write_text("importable_model:function")
    assert run(load_python_model(version)) == {"x": 1}
    (version / "entry_point.txt").write_text("importable_model")
    assert set(load_python_model(version).signatures) == {"serving_default"}
    (version / "entry_point.txt").write_text("importable_model:nothing")
    with pytest.raises(LoadError, match="has no attribute 'nothing'"):
        load_python_model(version)


def test_a_failed_load_is_explained_by_the_lines_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import importlib\nimportlib.import_module('nonsense')\n")
    with pytest.raises(LoadError) as info:
        load_python_model(tmp_path)
    assert info.value.message == (
        f"cannot load {tmp_path}: ModuleNotFoundError: No module named 'nonsense'\n"
        f'  File "{tmp_path}/model.py", line 2, in <module>\n'
        "    importlib.import_module('nonsense')"
    )


def test_lines_of_packages_beside_the_model_are_the_models_own(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/table.py").write_text("{}['words']\n")
    (tmp_path / "model.py").write_text("from .parts import table\n")
    with pytest.raises(LoadError, match=f'File "{tmp_path}/parts/table.py", line 1'):
        load_python_model(tmp_path)


def test_an_error_in_other_code_is_explained_by_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_model.py").write_text("raise KeyError('words')\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1/entry_point.txt").write_text("broken_model")
    with pytest.raises(LoadError) as info:
        load_python_model(tmp_path / "1")
    assert info.value.message == (
        f"cannot load {tmp_path}/1: KeyError: 'words'\n"
        f'  File "{tmp_path}/broken_model.py", line 1, in <module>\n'
        "    raise KeyError('words')"
    )


@pytest.mark.parametrize(
    ("body", "code", "complaint"),
    [
        ("import nonsense_module", Code.INTERNAL, "No module named 'nonsense_module'.*line 4"),
        ("x = = 1", Code.INTERNAL, "SyntaxError"),
        ("raise SystemExit(3)", Code.INTERNAL, "SystemExit: 3"),
        ("class Model:\n  def __init__(self, d): 1 / 0", Code.INTERNAL, "ZeroDivisionError"),
        ("", Code.INVALID_ARGUMENT, "neither a class Model nor a function"),
        ("class Model:\n  def __init__(self, d): pass", Code.INVALID_ARGUMENT, "`signatures`"),
        (
            "class Model:\n  signatures = {'s': 1}\n  __init__ = run = lambda *_: None",
            Code.INVALID_ARGUMENT,
            "`signatures`",
        ),
        ("raise PermissionError('not for you')", Code.PERMISSION_DENIED, "not for you"),
        ("from servable.errors import *\nraise InvalidInputError('no')", Code.INVALID_ARGUMENT, ""),
    ],
)
def test_a_failed_load_gives_its_reason_and_leaks_nothing(
    body: str, code: Code, complaint: str, tmp_path: Path
) -> None:
    write(tmp_path, body)
    before = set(sys.modules)
    with pytest.raises((LoadError, InvalidInputError), match=f"(?s){complaint}") as info:
        load_python_model(tmp_path)
    assert info.value.code is code
    assert set(sys.modules) == before


def test_an_empty_directory_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"holds neither model\.py nor entry_point\.txt") as info:
        load_python_model(tmp_path)
    assert info.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("body", "may_pass"),
    [
        ("import nonsense_module", False),
        ("x = = 1", False),
        ("undefined", False),
        ("from servable.signature import *\nTensorSpec('float31')", False),
        ("from servable.signature import *\nSignature({}, {})", False),
        ("from servable.signature import *\nserves(input={})", False),
        ("class Model:\n  def __init__(self): pass", False),
        ("class Model: pass", False),
        ("", False),
        ("{}['words']", False),
        ("open('/nonexistent/words.txt')", True),
        ("raise ConnectionRefusedError('database')", True),
        ("raise MemoryError", True),
        ("raise TimeoutError", True),
        ("raise RuntimeError('who knows')", True),
        ("raise PermissionError('not yet')", True),
        (
            "try:\n  open('/nonexistent')\nexcept OSError as e:\n  raise ValueError('words') from e",
            True,
        ),
        ("try:\n  open('/nonexistent')\nexcept OSError:\n  raise ValueError('words')", True),
    ],
)
def test_errors_of_broken_code_do_not_count_as_temporary(
    body: str, may_pass: bool, tmp_path: Path
) -> None:
    write(tmp_path, body)
    with pytest.raises(LoadError) as info:
        load_python_model(tmp_path)
    assert info.value.may_pass is may_pass


@pytest.mark.parametrize(
    "body",
    [
        "@serves(inputs={}, outputs={'y': S})\nasync def f(inputs): return {}",
        "@serves(inputs={}, outputs={'y': S})\ndef f(inputs): yield {}",
        "@serves(inputs={}, outputs={'y': S})\nasync def f(inputs): yield {}",
        (
            "class Model:\n  signatures = {'s': Signature({}, {'y': S})}\n  def __init__(self, d): pass\n"
            "  async def run(self, inputs): return {}"
        ),
        (
            "class Model:\n  signatures = {'s': Signature({}, {'y': S})}\n  def __init__(self, d): pass\n"
            "  def run(self, inputs): return {}\n  async def close(self): pass"
        ),
        (
            "import functools\nasync def f(a, inputs): return {}\n"
            "class Model:\n  signatures = {'s': Signature({}, {'y': S})}\n  def __init__(self, d):\n"
            "    self.run = functools.partial(f, 1)"
        ),
        (
            "class Run:\n  async def __call__(self, inputs): return {}\n"
            "class Model:\n  signatures = {'s': Signature({}, {'y': S})}\n  def __init__(self, d):\n"
            "    self.run = Run()"
        ),
    ],
)
def test_a_coroutine_is_refused_when_it_is_loaded(body: str, tmp_path: Path) -> None:
    write(tmp_path, f"from servable.signature import *\nS = TensorSpec('float32')\n{body}\n")
    with pytest.raises(LoadError, match="is a coroutine or a generator function") as info:
        load_python_model(tmp_path)
    assert (info.value.code, info.value.may_pass) == (Code.INVALID_ARGUMENT, False)
