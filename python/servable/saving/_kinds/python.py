"""Python functions of arrays: their source becomes `model.py`, with what it uses beside it."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import keyword
import symtable
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from servable._server.config.ownership import is_installed
from servable.errors import SaveError
from servable.loaders._python_model import MODEL_FILE
from servable.saving._calling import (
    arrays_of,
    input_names,
    outputs_by_name,
    takes_mapping,
    wanted_outputs,
)
from servable.saving._conversion import Conversion
from servable.saving._example import Example, spec_of
from servable.signature import TensorSpec, declared_signature

_MAX_FUNCTIONS = 1000
_ANNOTATIONS = "from __future__ import annotations\n"
_NAMES_OF_MODEL_FILE = ("Path", "TensorSpec", "serves", "serve", "np")
_SERVE = """

@serves(
    inputs={inputs},
    outputs={outputs},
)
def serve(inputs):
    outputs = {call}
    return {result}
"""


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Write the source of a function, of the functions that it calls, and its arrays."""
    function = _plain_function(model)
    declared = declared_signature(function)
    if declared is not None and example.signature is None:
        example = Example.of(example.given, declared[1])
    names = input_names(function, example)
    inputs = _cast(example.named(names), example.specs(names))
    as_mapping = takes_mapping(function, names)
    wanted = wanted_outputs(example)
    raw = function(inputs) if as_mapping else function(*inputs.values())
    expected = arrays_of(outputs_by_name(raw, wanted))
    specs = example.specs(names)
    if example.signature is not None:
        outputs = example.signature.outputs
    else:
        rows = next(iter(inputs.values())).shape[0]
        outputs = {name: _output_spec(array, name, rows) for name, array in expected.items()}
    # Arguments are positional where the parameters have other names than the inputs.
    call = "inputs" if as_mapping else ", ".join(f"inputs[{name!r}]" for name in names)
    source = _Source(directory)
    entry = source.add(function)
    text = source.text() + _SERVE.format(
        inputs=_specs_text(specs),
        outputs=_specs_text(outputs),
        call=f"{entry}({call})",
        result=_result_text(raw, tuple(outputs)),
    )
    (directory / MODEL_FILE).write_text(text, encoding="utf-8")
    return Conversion(
        kind="python",
        platform="python",
        inputs=inputs,
        expected=expected,
        libraries=("numpy",),
    )


def _plain_function(model: Any) -> FunctionType:
    advice = "save a function that is defined with `def`, or write a model.py, see docs/guides/python-models.md"
    if not isinstance(model, FunctionType):
        raise SaveError(f"got a {type(model).__name__}, whose source cannot be written; {advice}")
    if model.__name__ == "<lambda>":
        raise SaveError(f"got a lambda; {advice}")
    if inspect.iscoroutinefunction(model) or inspect.isgeneratorfunction(model):
        raise SaveError(f"{model.__name__} is a coroutine or generator; {advice}")
    return model


def _cast(arrays: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> Mapping[str, Any]:
    return {
        name: array
        if specs[name].dtype in ("bytes", "bfloat16")
        else array.astype(specs[name].dtype)
        for name, array in arrays.items()
    }


def _output_spec(array: Any, name: str, rows: int) -> TensorSpec:
    if array.ndim and array.shape[0] == rows:
        return spec_of(array, name)
    return TensorSpec("bytes" if array.dtype == object else array.dtype.name, [None] * array.ndim)


def _specs_text(specs: Mapping[str, TensorSpec]) -> str:
    parts = (
        f"{name!r}: TensorSpec({s.dtype!r}, {None if s.shape is None else list(s.shape)!r})"
        for name, s in specs.items()
    )
    return "{" + ", ".join(parts) + "}"


def _result_text(raw: Any, names: tuple[str, ...]) -> str:
    if isinstance(raw, Mapping):
        return "outputs"
    if hasattr(raw, "_asdict"):
        return "outputs._asdict()"
    if isinstance(raw, (tuple, list)):
        return f"dict(zip({names!r}, outputs))"
    return f"{{{names[0]!r}: outputs}}"


class _Source:
    """The text of a model file that defines a function and all that it uses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._imports: list[str] = []
        self._values: list[str] = []
        self._functions: list[str] = []
        self._known: dict[str, Any] = {}

    def add(self, function: FunctionType) -> str:
        """Write a function, and return its name."""
        self._define(function.__name__, function, function.__name__)
        return function.__name__

    def text(self) -> str:
        """The module so far."""
        imports = [
            "from pathlib import Path",
            "import numpy as np",
            "from servable.signature import TensorSpec, serves",
            *self._imports,
        ]
        head = f'"""Written by servable.save."""\n\n{_ANNOTATIONS}\n' + "\n".join(imports)
        return "\n\n".join(
            [head, *(["\n".join(self._values)] if self._values else []), *self._functions]
        )

    def _define(self, name: str, value: Any, user: str) -> None:
        """Make a name of the model file stand for a value.

        Raises:
            SaveError: The value cannot be written.
        """
        if name in self._known:
            if self._known[name] is value:
                return
            raise SaveError(f"{user} uses {name}, and so does another function, for something else")
        if name == "np" and value is np:
            return
        if name in _NAMES_OF_MODEL_FILE or keyword.iskeyword(name):
            raise SaveError(f"{user} uses the name {name}, which model.py needs; rename it")
        if len(self._known) >= _MAX_FUNCTIONS:
            raise SaveError(f"{user} uses more than {_MAX_FUNCTIONS} names")
        self._known[name] = value
        if isinstance(value, ModuleType):
            self._require_installed(value.__name__, name, user)
            self._imports.append(f"import {value.__name__} as {name}")
        elif (place := _importable_from(value)) is not None:
            alias = "" if place[1] == name else f" as {name}"
            self._imports.append(f"from {place[0]} import {place[1]}{alias}")
        elif isinstance(value, FunctionType):
            self._write_function(name, value)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            np.save(self._directory / f"{name}.npy", value, allow_pickle=False)
            self._values.append(f"{name} = np.load(Path(__file__).with_name({name + '.npy'!r}))")
        elif _is_literal(value):
            self._values.append(f"{name} = {value!r}")
        else:
            raise SaveError(
                f"{user} uses {name}, a {type(value).__module__}.{type(value).__qualname__}, which cannot be "
                "written as source; make it an array or a constant, or write a model.py, see "
                "docs/guides/python-models.md"
            )

    def _require_installed(self, module: str, name: str, user: str) -> None:
        top = sys.modules.get(module.partition(".")[0])
        file = getattr(top, "__file__", None)
        if file is not None and not is_installed(file):
            raise SaveError(
                f"{user} uses {name}, the module {module} in {file}, which no server has; install it as a "
                "package, or move what is used beside the function"
            )

    def _write_function(self, name: str, function: FunctionType) -> None:
        text = _source_of(name, function)
        place = len(self._functions)
        for used in _names_used(text, function.__name__):
            found, value = _lookup(function, used)
            if found:
                self._define(used, value, function.__name__)
        self._functions.insert(place, text)
        if name != function.__name__:
            self._functions.append(f"{name} = {function.__name__}")


def _source_of(name: str, function: FunctionType) -> str:
    """The definition of a function without its decorators."""
    try:
        lines, _ = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise SaveError(f"the source of {name} cannot be read: {error}") from error
    text = textwrap.dedent("".join(lines))
    try:
        node = ast.parse(text).body[0]
    except (SyntaxError, IndexError) as error:
        raise SaveError(f"the source of {name} cannot be read: {error}") from error
    if not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
        raise SaveError(f"{name} is not the plain function of its source; save that function")
    for decorator in node.decorator_list:
        if "serves" not in ast.unparse(decorator).partition("(")[0]:
            raise SaveError(
                f"{name} has the decorator @{ast.unparse(decorator)}, which is not written; save a plain function"
            )
    return "\n".join(text.splitlines()[node.lineno - 1 :])


def _names_used(text: str, own: str) -> Iterator[str]:
    """The names that a definition takes from outside of it; annotations do not count."""
    pending = [symtable.symtable(_ANNOTATIONS + text, "model.py", "exec")]
    seen = {own, "annotations"}
    while pending:
        table = pending.pop()
        is_module = table.get_type() == "module"
        for symbol in table.get_symbols():
            name = symbol.get_name()
            from_outside = symbol.is_global() or (is_module and symbol.is_referenced())
            if from_outside and name not in seen:
                seen.add(name)
                yield name
        pending.extend(table.get_children())


def _lookup(function: FunctionType, name: str) -> tuple[bool, Any]:
    """The value of a name in a function; false for builtins."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in cells:
        return True, cells[name].cell_contents
    if name in function.__globals__:
        return True, function.__globals__[name]
    if hasattr(builtins, name):
        return False, None
    raise SaveError(f"{function.__name__} uses {name}, which is not defined")


def _importable_from(value: Any) -> tuple[str, str] | None:
    """The installed module from which a value can be imported, and its name there."""
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
    if isinstance(value, np.ufunc):
        name, module = value.__name__, "numpy"
    if not isinstance(name, str) or not name.isidentifier() or not isinstance(module, str):
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or (file is not None and not is_installed(file)):
        return None
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return (module, name) if found is value else None


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
