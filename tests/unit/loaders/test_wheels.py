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


def test_versions_are_named_if_the_library_cannot_be_used(package: Path) -> None:
    metadata = package.parent / "test_wheel-0.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: test-wheel\nVersion: 0.9\n")
    (metadata / "top_level.txt").write_text(package.name)

    def open_library(path: str) -> str:
        raise LoadError(f"{path} does not export test")

    old = WheelRuntime("Test", package.name, ["lib/*"], "lightgbm", open_library)
    with pytest.raises(LoadError) as error:
        old.get()
    assert "does not export test; found test-wheel 0.9, want lightgbm>=" in error.value.message
    assert error.value.message.endswith("; install it with `pip install 'servable[lightgbm]'`")
