"""Imports run downwards, and only one module imports the extension."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import servable

PACKAGE = Path(servable.__file__).parent

# From the top to the bottom; a module may import from its own layer and from those below it.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"server"},
    {"client_requests"},
    {"startup", "admin", "traffic_report", "slow_loads"},
    {"server_core"},
    {"change_under_way"},
    {"publisher", "remote_models", "model_paths"},
    {"platforms"},
    {"console", "border", "sources", "loaders", "warmup", "config", "telemetry"},
    {"credential_files"},
    {"remote"},
    {"lifecycle"},
    {"signature", "errors"},
]
BESIDE = {"client", "batching", "saving", "testing"}
# Users install the client without the server's requirements.
BELOW_CLIENT = {"client", "errors", "signature"}
ABOVE_LIFECYCLE = {"os", "pathlib", "socket", "google", "numpy", "subprocess", "urllib"}


def layer(name: str) -> int:
    return next(depth for depth, names in enumerate(LAYERS) if name in names)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether the import is for type checkers only."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in for_types
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or "", id(node) in for_types


def owner(path: Path) -> str:
    return part(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def part(module: str) -> str:
    """The part that a module below `servable` belongs to: below `_server`, what comes after that."""
    names = module.split(".")
    return names[1] if names[0] == "_server" and len(names) > 1 else names[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    own = owner(path)
    for imported, for_types in imports(path):
        top, _, rest = imported.partition(".")
        if top != "servable" or not rest:
            continue
        name = part(rest)
        if name == "_core":
            assert own == "border", f"{own} imports the extension; only the border may"
        elif own == "client":
            assert name in BELOW_CLIENT, f"client imports {name}, which belongs to the server"
        elif own in BESIDE:
            assert name != "cli"
        elif own != "__init__" and not for_types:
            assert name not in BESIDE, f"{own} imports {name}, which stands beside it"
            assert layer(own) <= layer(name), f"{own} imports {name}, which is above it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_lifecycle_knows_no_files_frameworks_or_networks(path: Path) -> None:
    if owner(path) == "lifecycle":
        assert not {imported.split(".")[0] for imported, _ in imports(path)} & ABOVE_LIFECYCLE


def kinds() -> list[Path]:
    """The files of platforms with one kind of servable each."""
    return sorted(PACKAGE.glob("platforms/[!_]*.py"))


@pytest.mark.parametrize("path", kinds(), ids=lambda path: path.stem)
def test_no_kind_of_servable_knows_another(path: Path) -> None:
    others = {f"servable.platforms.{kind.stem}" for kind in kinds()}
    assert others.isdisjoint(name for name, _ in imports(path))


def test_nothing_else_knows_the_kinds_of_servables() -> None:
    names = {f"servable.platforms.{path.stem}" for path in kinds()}
    assert len(names) >= 2
    for path in modules():
        assert names.isdisjoint(imported for imported, _ in imports(path)), path


def test_every_module_has_a_layer() -> None:
    known = set().union(*LAYERS) | BESIDE | {"__init__", "_server"}
    assert {owner(path) for path in modules()} <= known
