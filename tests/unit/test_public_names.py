"""The public interface: public modules, and the names in their `__all__`."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from types import ModuleType

import pytest

import servable
from support import import_extra

PUBLIC = (
    "servable servable.batching servable.cli servable.client servable.errors servable.lifecycle servable.loaders "
    "servable.loaders.models servable.platforms servable.saving servable.signature servable.sources servable.testing "
    "servable.testing.pytest_plugin servable.warmup"
).split()


def names(module: ModuleType) -> set[str]:
    """The names that a module defines and does not mark as private."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "TYPE_CHECKING"
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


def test_private_modules_are_below_an_underscore() -> None:
    unmarked = {name for name in import_extra.modules() if not re.search(r"\._", name)}
    kinds = {name for name in unmarked if name.startswith("servable.platforms.")}
    assert unmarked - kinds == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_lists_its_names(name: str) -> None:
    module = importlib.import_module(name)
    listed = module.__all__
    assert len(listed) == len(set(listed))
    for each in listed:
        assert getattr(module, each) is not None
    assert names(module) <= set(listed)


@pytest.mark.usefixtures("real_extension")
def test_dir_lists_exactly_the_public_names() -> None:
    program = "import servable\nfor name in dir(servable): print(name, getattr(servable, name) is not None)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    modules = {name.split(".")[1] for name in PUBLIC if name.count(".") == 1}
    shown = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" True")}
    assert shown == {"Flags", "ModelServer", "__version__", "load", "save", *modules}, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = servable.nothing  # type: ignore[attr-defined]


@pytest.mark.usefixtures("real_extension")
@pytest.mark.parametrize(
    "statement",
    [
        "import servable",
        "from servable import Flags, ModelServer",
        "import servable.cli",
    ],
)
def test_importing_the_package_imports_no_framework(statement: str) -> None:
    program = (
        f"import sys; before = {{*sys.modules}}; {statement}; print(*{{*sys.modules}} - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert "servable" in imported
    frameworks = (
        "numpy scipy pandas tensorflow keras jax torch onnx onnxruntime ai_edge_litert".split()
    )
    frameworks += "sklearn skl2onnx xgboost lightgbm catboost grpc httpx fsspec asyncio".split()
    assert imported.isdisjoint(frameworks)
