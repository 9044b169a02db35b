from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from servable._server.config import ownership
from servable._server.config.ownership import (
    WritableByOthersError,
    require_private_file,
    require_private_module,
    require_private_tree,
)
from servable.errors import Code
from servable.loaders._op_libraries import find_package

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
STRANGER = 54321


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A private version directory, with a module and bytecode below it."""
    directory = tmp_path / "m/1"
    (directory / "parts/__pycache__").mkdir(parents=True)
    for name in ("model.py", "parts/vocabulary.py", "parts/__pycache__/vocabulary.pyc", "weights"):
        (directory / name).write_bytes(b"")
    return directory


def test_a_tree_that_only_the_user_may_write_is_private(version: Path) -> None:
    assert require_private_tree(str(version)) == str(version.resolve())
    for require in (require_private_file, require_private_tree):
        assert require(str(version / "model.py")) == str(version.resolve() / "model.py")


@pytest.mark.parametrize("mode", [0o002, 0o020, 0o022], ids=oct)
@pytest.mark.parametrize(
    "name",
    ["model.py", "parts", "parts/vocabulary.py", "parts/__pycache__/vocabulary.pyc", "weights", ".", "..", "../.."],
)  # fmt: skip
def test_a_tree_that_others_may_write_is_not_private(
    version: Path, name: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_is_private_group", lambda group, user: False)
    changed = Path(os.path.normpath(version / name))
    changed.chmod(changed.stat().st_mode | mode)
    with pytest.raises(WritableByOthersError, match="may be written by others") as raised:
        require_private_tree(str(version))
    assert str(changed.resolve()) in raised.value.message
    assert raised.value.code is Code.PERMISSION_DENIED


@needs_root
@pytest.mark.parametrize("name", ["model.py", "parts/vocabulary.py", ".", ".."])
def test_a_file_of_another_user_is_not_private(version: Path, name: str) -> None:
    os.chown(version / name, STRANGER, 0)
    with pytest.raises(WritableByOthersError, match=f"belongs to user {STRANGER}"):
        require_private_tree(str(version))


def test_a_sticky_directory_above_is_private_and_one_with_code_is_not(version: Path) -> None:
    version.parent.chmod(0o1777)
    require_private_tree(str(version))
    (version / "parts").chmod(0o1777)
    with pytest.raises(WritableByOthersError):
        require_private_tree(str(version))


@pytest.mark.parametrize("is_directory", [False, True])
def test_symbolic_links_count_like_what_they_lead_to(version: Path, is_directory: bool) -> None:
    elsewhere = version.parents[1] / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "more.py").write_text("")
    target = elsewhere if is_directory else elsewhere / "more.py"
    (version / "link").symlink_to(target)
    require_private_tree(str(version))
    (elsewhere / "more.py").chmod(0o666)
    with pytest.raises(WritableByOthersError, match=r"more\.py"):
        require_private_tree(str(version))


def test_links_in_circles_and_to_nowhere_end(version: Path) -> None:
    (version / "circle").symlink_to(version)
    require_private_tree(str(version))
    (version / "gone").symlink_to(version / "nowhere")
    with pytest.raises(WritableByOthersError, match="Cannot determine which users may write"):
        require_private_tree(str(version))


def test_too_many_files_are_refused(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "MAX_FILES", 3)
    with pytest.raises(WritableByOthersError, match="more than 3 files"):
        require_private_tree(str(version))


def test_modules_come_from_private_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "private_of_a_test.py").write_text("")
    (tmp_path / "open_of_a_test.py").write_text("")
    (tmp_path / "open_of_a_test.py").chmod(0o666)
    require_private_module("private_of_a_test")
    require_private_module("json.decoder")
    require_private_module("none.such")
    with pytest.raises(WritableByOthersError):
        require_private_module("open_of_a_test.part")
    assert "open_of_a_test" not in sys.modules


@pytest.mark.parametrize(
    ("user", "group", "is_private"), [(0, 0, False), (1234567, 1234567, False)], ids=str
)
def test_the_groups_of_root_and_of_nobody_are_shared(
    user: int, group: int, is_private: bool
) -> None:
    is_private_group: Callable[[int, int], bool] = ownership._is_private_group
    assert is_private_group(group, user) is is_private


def test_packages_of_operations_come_from_private_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "operations_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_package(package.name) == package.resolve()
    package.chmod(0o777)
    assert find_package(package.name) is None
