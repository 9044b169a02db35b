"""Libraries of installed packages are found without importing the packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from servable.errors import Code, LoadError
from servable.loaders._wheels import WheelRuntime


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must not be imported, with libraries of two versions."""
    directory = tmp_path / "wheel_of_a_test"
    (directory / "lib").mkdir(parents=True)
    (directory / "__init__.py").write_text("raise AssertionError('imported')")
    for version in ("1.8", "1.9"):
        (directory / "lib" / f"libtest.so.{version}").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return directory


def runtime(*patterns: str, package: str = "wheel_of_a_test") -> WheelRuntime[str]:
    return WheelRuntime("Test Runtime", package, patterns, "test", lambda path: path)


def test_the_library_is_found_without_an_import(package: Path) -> None:
    found = runtime("lib/libnone.so", "lib/libtest.so.*")
    found.require_installed()
    assert found.get() == str(package / "lib" / "libtest.so.1.9")
    assert package.name not in sys.modules


def test_a_missing_package_is_named_with_its_extra() -> None:
    missing = runtime("x", package="no_such_package")
    for check in (missing.require_installed, missing.get):
        with pytest.raises(LoadError) as error:
            check()
        assert error.value.code is Code.FAILED_PRECONDITION
        assert error.value.message == (
            "Test Runtime is not installed; install it with `pip install 'servable[test]'`"
        )


def test_a_package_without_the_library_is_named(package: Path) -> None:
    with pytest.raises(LoadError) as error:
        runtime("lib/libother.so").require_installed()
    assert error.value.message.startswith(
        f"Test Runtime in {package} has no lib/libother.so; install"
    )


def test_a_package_that_is_too_old_is_named_with_its_version(package: Path) -> None:
    information = package.parent / "old_test-1.4.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: old-test\nVersion: 1.4\n")
    (information / "top_level.txt").write_text(package.name)
    old = WheelRuntime("Test Runtime", package.name, ["lib/x"], "test", str, since="1.19")
    with pytest.raises(LoadError) as error:
        old.get()
    assert error.value.message == (
        f"Test Runtime 1.4 in {package} has no lib/x, want version 1.19 or later; "
        "install it with `pip install 'servable[test]'`"
    )


def test_a_library_that_cannot_be_opened_is_tried_again(package: Path) -> None:
    calls: list[str] = []

    def open_library(path: str) -> str:
        calls.append(path)
        if len(calls) == 1:
            raise LoadError("cannot load it")
        return path

    opened = WheelRuntime("Test Runtime", package.name, ["lib/*"], "test", open_library)
    with pytest.raises(LoadError, match="cannot load it; install it with") as error:
        opened.get()
    assert error.value.code is Code.FAILED_PRECONDITION
    assert opened.get() == opened.get() == str(package / "lib" / "libtest.so.1.9")
    assert len(calls) == 2
