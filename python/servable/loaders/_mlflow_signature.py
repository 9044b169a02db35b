"""Reads `MLmodel`, the description of a model that MLflow wrote; needs PyYAML, and runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servable.errors import Code, LoadError
from servable.signature import TensorSpec

DESCRIPTION_FILE = "MLmodel"
PREDICTIONS = "predictions"
"""The name of an output without a name."""

_FLAVOUR = "python_function"
_INPUTS = "inputs"
_MAX_BYTES = 16 << 20
_DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "bytes",
    "binary": "bytes",
}
"""The dtype for a type of a column."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The inputs or outputs of a model.

    Attributes:
        specs: Their dtypes and shapes, by name.
        are_columns: Whether they are the columns of a data frame.
        are_named: Whether the model has names for them.
        text: The names of columns with text, in contrast to bytes.
    """

    specs: Mapping[str, TensorSpec]
    are_columns: bool
    are_named: bool
    text: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Description:
    """What `MLmodel` says.

    Attributes:
        inputs: The inputs.
        outputs: The outputs; `None` if they are not described.
    """

    inputs: Fields
    outputs: Fields | None


def read_description(directory: Path) -> Description:
    """Read the signature of a model.

    Raises:
        LoadError: It cannot be read, is no Python function, or has no signature that can be served.
        ImportError: PyYAML is not installed.
    """
    file = directory / DESCRIPTION_FILE
    return description_of(_read_yaml(file), file)


def description_of(document: Any, file: Path) -> Description:
    """Read the signature of a model.

    Args:
        document: The content of `MLmodel`.
        file: The file, for messages.

    Raises:
        LoadError: It is no Python function, or has no signature that can be served.
    """
    if not isinstance(document, dict):
        raise _unusable(f"{file}: got {type(document).__name__}, want a mapping")
    flavours = document.get("flavors")
    if not isinstance(flavours, dict) or _FLAVOUR not in flavours:
        found = ", ".join(map(str, flavours)) if isinstance(flavours, dict) else "none"
        raise _unusable(f"{file}: got the flavors {found[:200]}, want {_FLAVOUR} among them")
    signature = document.get("signature")
    if not isinstance(signature, dict) or not signature.get("inputs"):
        raise _unusable(
            f"{file}: got no signature; log the model again with `signature=infer_signature(inputs, outputs)`"
        )
    outputs = signature.get("outputs")
    return Description(
        _fields(signature["inputs"], _INPUTS, f"{file}: signature.inputs"),
        _fields(outputs, PREDICTIONS, f"{file}: signature.outputs") if outputs else None,
    )


def _read_yaml(file: Path) -> Any:
    import yaml

    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise LoadError(f"{file}: {error.strerror}", code=Code.NOT_FOUND) from error
    if len(data) > _MAX_BYTES:
        raise _unusable(f"{file}: got more than {_MAX_BYTES} bytes")
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unusable(f"{file}: got no YAML: {error}") from error


def _fields(text: Any, default_name: str, place: str) -> Fields:
    """Read a schema of MLflow: a list of columns, or a list of tensors, as JSON in a string."""
    try:
        schema = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise _unusable(f"{place}: got no JSON: {error}") from error
    if not isinstance(schema, list) or not all(isinstance(each, dict) for each in schema):
        raise _unusable(f"{place}: got {str(text)[:100]}, want a list of columns or tensors")
    names = _names(schema, default_name, place)
    are_columns = not any(each.get("type") == "tensor" for each in schema)
    read = _column if are_columns else _tensor
    specs = {name: read(each, f"{place}.{name}") for name, each in zip(names, schema, strict=True)}
    text_columns = (
        name for name, each in zip(names, schema, strict=True) if each.get("type") == "string"
    )
    return Fields(specs, are_columns, "name" in schema[0], frozenset(text_columns))


def _names(schema: Sequence[Mapping[str, Any]], default_name: str, place: str) -> Sequence[str]:
    names = [each.get("name") for each in schema]
    if len(names) == 1 and names[0] is None:
        return [default_name]
    if not names or not all(isinstance(name, str) for name in names):
        raise _unusable(
            f"{place}: got {len(names)} fields, some without a name; want a name for each"
        )
    found = [str(name) for name in names]
    if len(set(found)) < len(found):
        raise _unusable(f"{place}: got two fields with one name")
    return found


def _column(column: Mapping[str, Any], place: str) -> TensorSpec:
    dtype = _DTYPES.get(str(column.get("type")))
    if dtype is None:
        raise _unusable(
            f"{place}: got a column of type {str(column.get('type'))[:100]}, want one of {', '.join(_DTYPES)}"
        )
    return TensorSpec(dtype, [None])


def _tensor(field: Mapping[str, Any], place: str) -> TensorSpec:
    spec = field.get("tensor-spec")
    spec = spec if isinstance(spec, dict) else {}
    shape = spec.get("shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        raise _unusable(f"{place}: got the shape {str(shape)[:100]}, want a list of sizes")
    sizes = [None if size == -1 else size for size in shape]
    try:
        dtype = spec.get("dtype")
        return TensorSpec("bytes" if dtype in ("object", "str") else str(dtype), sizes)
    except ValueError as error:
        raise _unusable(f"{place}: {error}") from error


def _unusable(message: str) -> LoadError:
    return LoadError(message, code=Code.INVALID_ARGUMENT, may_pass=False)
