"""Makes a model from a version directory with Python code.

The directory contains `model.py`, or `entry_point.txt` with one line `module:name` for an importable object. The
module, or the object, provides one of

- a class `Model` with an attribute `signatures` and a method `run`. It is constructed once, with the version directory
  as its argument, and closed by its method `close` if it has one;
- functions that are declared with `servable.signature.serves`, each for one signature.

A true attribute `repeatable` of the class, or of every function, declares that runs have no side effects. The requests
of a failed batch are then run again in smaller ones.

A model file is imported under a unique name, so that each version has separate code. The same is true of modules beside
it that it imports relatively (`from . import vocabulary`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import itertools
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from servable._server.config.ownership import require_private_module
from servable.errors import BackendError, Code, LoadError, ServableError
from servable.signature import Signature, declared_signature

MODEL_FILE = "model.py"
ENTRY_POINT_FILE = "entry_point.txt"

_log = logging.getLogger(__name__)

_FRAMES = 3
_numbers = itertools.count(1)

_WRONG_CODE = (
    ImportError,
    SyntaxError,
    NameError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
)
"""Exceptions of broken code or missing packages: a retry would fail in the same way."""


class PythonModel:
    """An imported and constructed model.

    Attributes:
        signatures: The model's signatures, by name.
        is_repeatable: Whether it declares that runs have no side effects.
    """

    def __init__(
        self,
        signatures: Mapping[str, Signature],
        functions: Mapping[str, Callable[..., Any]],
        resources: contextlib.ExitStack,
        *,
        is_repeatable: bool,
    ) -> None:
        """Combine the parts; for `load_python_model`."""
        self.signatures = dict(signatures)
        self.is_repeatable = is_repeatable
        self._functions = {
            name: (function, _keywords(function)) for name, function in functions.items()
        }
        self._resources = resources

    def run(self, signature_name: str, inputs: Mapping[str, Any], deadline: float) -> Any:
        """Run one batch; `servable.loaders._arrays.Run` describes it."""
        function, keywords = self._functions[signature_name]
        if not keywords:
            return function(inputs)
        offered = {"signature_name": signature_name, "deadline": deadline}
        return function(inputs, **{name: offered[name] for name in keywords})

    def close(self) -> None:
        """Close the model, and remove its modules.

        Raises:
            Exception: Raised by the model; a `BackendError` in place of one that is no `Exception`.
        """
        self._functions.clear()
        _close(self._resources)


def load_python_model(directory: Path) -> PythonModel:
    """Import and construct the model of a version directory.

    Raises:
        LoadError: There is none, it cannot be used, or its code raised; the message ends with the last lines of the
            model in the traceback.
    """
    resources = contextlib.ExitStack()
    try:
        return _make(_import(directory, resources), directory, resources)
    # A model file may also call `sys.exit`, which must not end the loading thread.
    except BaseException as error:
        try:
            _close(resources)
        except Exception:
            _log.exception("A model of %s that was not loaded could not be closed", directory)
        if isinstance(error, ServableError):
            raise
        is_denied = isinstance(error, PermissionError)
        raise LoadError(
            f"cannot load {directory}: {_told(error, directory)}",
            code=Code.PERMISSION_DENIED if is_denied else Code.INTERNAL,
            may_pass=_may_pass(error),
        ) from error


def _close(resources: contextlib.ExitStack) -> None:
    try:
        resources.close()
    except Exception:
        raise
    except BaseException as error:
        raise BackendError(f"{type(error).__name__}: {error}") from error


def _import(directory: Path, resources: contextlib.ExitStack) -> Any:
    """The module, or the object of an entry point."""
    file, entry_point = directory / MODEL_FILE, directory / ENTRY_POINT_FILE
    if entry_point.is_file():
        module_name, _, attribute = entry_point.read_text().strip().partition(":")
        require_private_module(module_name)
        found: Any = importlib.import_module(module_name)
        for name in filter(None, attribute.split(".")):
            found = getattr(found, name)
        return found
    if not file.is_file():
        raise LoadError(
            f"{directory} holds neither {MODEL_FILE} nor {ENTRY_POINT_FILE}", code=Code.NOT_FOUND
        )
    name = f"servable_model_{next(_numbers)}"
    resources.callback(_forget, name)
    return _import_file(name, file)


def _import_file(name: str, file: Path) -> ModuleType:
    # A package, so that the modules beside it can be imported relatively.
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(file.parent)]
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _no_bytecode():
        # Compiled here, not by the module's loader: bytecode beside the file may be outdated, and the directory is not
        # ours to write to.
        exec(compile(file.read_bytes(), file, "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _forget(name: str) -> None:
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        sys.modules.pop(module, None)


def _make(code: Any, directory: Path, resources: contextlib.ExitStack) -> PythonModel:
    if isinstance(code, ModuleType):
        functions = dict(_declared_functions(code))
        if not hasattr(code, "Model"):
            if not functions:
                raise LoadError(
                    f"{code.__file__} has neither a class Model nor a function that is declared "
                    "with servable.signature.serves",
                    code=Code.INVALID_ARGUMENT,
                )
            return _of_functions(functions, resources)
        code = code.Model
    elif (declared := declared_signature(code)) is not None:
        name, signature = declared
        return _of_functions({name: (signature, code)}, resources)
    make: Callable[[Path], Any] = code
    model = make(directory) if inspect.isclass(code) else code
    if callable(close := getattr(model, "close", None)):
        _require_plain("close", close)
        resources.callback(close)
    signatures, run = getattr(model, "signatures", None), getattr(model, "run", None)
    are_signatures = isinstance(signatures, Mapping) and all(
        isinstance(signature, Signature) for signature in signatures.values()
    )
    if not (signatures and are_signatures and callable(run)):
        raise LoadError(
            f"{directory}: a model needs an attribute `signatures`, a dict of at least one "
            f"servable.signature.Signature by name, and a method `run`; got {model!r}",
            code=Code.INVALID_ARGUMENT,
        )
    _require_plain("run", run)
    return PythonModel(
        signatures,
        dict.fromkeys(signatures, run),
        resources,
        is_repeatable=getattr(model, "repeatable", False) is True,
    )


def _declared_functions(
    module: ModuleType,
) -> Iterator[tuple[str, tuple[Signature, Callable[..., Any]]]]:
    for value in vars(module).values():
        declared = declared_signature(value) if callable(value) else None
        if declared is not None:
            yield declared[0], (declared[1], value)


def _of_functions(
    functions: Mapping[str, tuple[Signature, Callable[..., Any]]], resources: contextlib.ExitStack
) -> PythonModel:
    for _, function in functions.values():
        _require_plain(getattr(function, "__name__", str(function)), function)
    return PythonModel(
        {name: signature for name, (signature, _) in functions.items()},
        {name: function for name, (_, function) in functions.items()},
        resources,
        is_repeatable=all(
            getattr(function, "repeatable", False) is True for _, function in functions.values()
        ),
    )


def _require_plain(name: str, function: Callable[..., Any]) -> None:
    """Refuse functions that do not return their result directly.

    Raises:
        LoadError: The result must be awaited or iterated.
    """
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    called = (function, getattr(function, "__call__", None))  # noqa: B004 - of an object that is called
    if any(is_kind(f) for is_kind in kinds for f in called):
        raise LoadError(
            f"{name} is a coroutine or a generator function; the server calls it from several threads and wants its "
            "result: write it with `def` and `return`, and wait for coroutines with `asyncio.run`",
            code=Code.INVALID_ARGUMENT,
        )


def _keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """The optional arguments that a function accepts."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return tuple(name for name in ("signature_name", "deadline") if takes_all or name in parameters)


def _may_pass(error: BaseException) -> bool:
    """Whether the same code may succeed later: it lacked a file, memory, or a network service."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        if not isinstance(link, _WRONG_CODE):
            return True
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


def _told(error: BaseException, directory: Path) -> str:
    """The exception, and the lines of the model that led to it; other lines if the code is elsewhere."""
    told = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in told.stack if not _imports(frame.filename)]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(directory)]
    lines = [*told.format_exception_only(), *traceback.format_list((own or frames)[-_FRAMES:])]
    return "".join(lines).rstrip()


def _imports(file: str) -> bool:
    """Whether the code of a file only imports that of models."""
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")
