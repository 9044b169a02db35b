"""Imports the modules that an extra of the package promises, and fails if a dependency is not declared.

usage: import_extra.py EXTRA [TOP_LEVEL_NAME...]

EXTRA is one of pyproject.toml, or `base` for none. With names, all other modules outside the standard library are
refused, as if they were not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

# The modules that need more than the package's own requirements; with the extra that provides it.
NEEDS = {
    "servable.batching": "python",
    "servable.client": "client",
    "servable.loaders._arrays": "python",
    "servable.loaders.models": "python",
    "servable.saving": "python",
    "servable.testing.pytest_plugin": "pytest",
}
SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "abfs", "hf": "hf", "http": "https"}


def hide_all_but(declared: Sequence[str]) -> None:
    """Hide all modules except these names and the standard library."""
    allowed = {"servable", *declared, *sys.stdlib_module_names}

    class Declared(PathFinder):
        @classmethod
        def find_spec(
            cls,
            fullname: str,
            path: Sequence[str] | None = None,
            target: ModuleType | None = None,
        ) -> ModuleSpec | None:
            if fullname.partition(".")[0] not in allowed:
                return None
            return super().find_spec(fullname, path, target)

    sys.meta_path[:] = [Declared if found is PathFinder else found for found in sys.meta_path]


def modules() -> Iterator[str]:
    """Every module of the package, without imports."""
    package = importlib.util.find_spec("servable")
    assert package is not None
    yield from _below("servable", package.submodule_search_locations or [])


def _below(name: str, paths: Sequence[str]) -> Iterator[str]:
    yield name
    for found in pkgutil.iter_modules(paths):
        inner = f"{name}.{found.name}"
        if found.ispkg:
            yield from _below(inner, [str(Path(path) / found.name) for path in paths])
        elif found.name != "__main__":  # serves
            yield inner


def need(module: str) -> str | None:
    """The extra that a module needs."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((NEEDS[prefix] for prefix in prefixes if prefix in NEEDS), None)


def use(extra: str) -> None:
    """Run the package's deferred imports."""
    if extra == "base":
        from servable._server.config.text_proto import new_message

        new_message("tensorflow.serving.ModelServerConfig")
    elif extra == "client":
        from servable.client import AsyncClient, Client

        for address in ("localhost:1", "grpc://localhost:1", "http://localhost:1"):
            Client(address).close()
            AsyncClient(address)
    elif extra == "tensorflow":
        from servable.loaders import TensorFlowRuntime

        assert TensorFlowRuntime().get().version
    elif extra in SCHEMES:
        import fsspec

        fsspec.get_filesystem_class(SCHEMES[extra])


def main(extra: str, *declared: str) -> None:
    """Import all modules that need no extra, or this one, and use them."""
    if declared:
        hide_all_but(declared)
    for module in modules():
        if need(module) in (None, extra):
            importlib.import_module(module)
    use(extra)


if __name__ == "__main__":
    main(*sys.argv[1:])
