"""Example requests for a signature, ready to paste: with curl, and in Python.

Variable sizes are 1. A tensor of many elements is generated where the request is sent, so that the example stays short.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from servable.loaders._description import SignatureDescription, TensorDescription
from servable.signature import DEFAULT_SIGNATURE

_ELEMENTS_IN_LINE = 32

_VALUES: Mapping[str, Any] = {
    **dict.fromkeys(["float32", "float64"], 1.0),
    **dict.fromkeys(["int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"], 1),
    "bool": True,
    "bytes": "text",
}
"""The dtypes that JSON requests can contain; the others require gRPC."""


def curl(url: str, name: str, signature_name: str, signature: SignatureDescription) -> str | None:
    """A request for a shell, or `None` if REST cannot express it: JSON has no such values, or no inputs.

    Args:
        url: The server, such as `http://localhost:8501`.
        name: The model.
        signature_name: The signature's name.
        signature: The signature.
    """
    target = shlex.quote(f"{url}/v1/models/{name}:{signature.method}")
    head = {} if signature_name == DEFAULT_SIGNATURE else {"signature_name": signature_name}
    if signature.method != "predict":
        return f"curl -d {shlex.quote(json.dumps({**head, 'examples': [signature.example or _FEATURES]}))} {target}"
    if not signature.inputs or any(spec.dtype not in _VALUES for spec in signature.inputs.values()):
        return None
    if sum(map(_elements, signature.inputs.values())) <= _ELEMENTS_IN_LINE:
        values = {key: _value(spec) for key, spec in signature.inputs.items()}
        return f"curl -d {shlex.quote(json.dumps({**head, 'inputs': values}))} {target}"
    members = [f"{json.dumps(key)}: {_expression(spec)}" for key, spec in signature.inputs.items()]
    heads = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    inputs = f'"inputs": {{{", ".join(members)}}}'
    code = f"import json; print(json.dumps({{{', '.join([*heads, inputs])}}}))"
    return f"python3 -c {shlex.quote(code)} |\n  curl -d @- {target}"


def python(address: str, name: str, signature_name: str, signature: SignatureDescription) -> str:
    """A program that calls the server with the package's client.

    Args:
        address: As in `servable.client.Client`.
        name: The model.
        signature_name: The signature's name.
        signature: The signature.
    """
    suffix = "" if signature_name == DEFAULT_SIGNATURE else f", signature={signature_name!r}"
    if signature.method != "predict":
        call = f"client.{signature.method}({name!r}, [{signature.example or _FEATURES!r}]{suffix})"
        numpy = ""
    else:
        inputs = ", ".join(f"{key!r}: {_array(spec)}" for key, spec in signature.inputs.items())
        call = f"client.predict({name!r}, {{{inputs}}}{suffix})"
        numpy = "import numpy as np\n" if "np." in call else ""
    return (
        f"{numpy}from servable.client import Client\n\n"
        f"with Client({address!r}) as client:\n    print({call})"
    )


_FEATURES = {"FEATURE": 1.0}
"""A placeholder: only the graph contains the names of the features of an example."""


def _sizes(spec: TensorDescription) -> list[int]:
    return [1] if spec.shape is None else [1 if size is None else size for size in spec.shape]


def _elements(spec: TensorDescription) -> int:
    count = 1
    for size in _sizes(spec):
        count *= size
    return count


def _value(spec: TensorDescription) -> Any:
    value = _VALUES[spec.dtype]
    for size in reversed(_sizes(spec)):
        value = [value] * size
    return value


def _expression(spec: TensorDescription) -> str:
    """The value as a Python expression."""
    text = "True" if spec.dtype == "bool" else json.dumps(_VALUES[spec.dtype])
    for size in reversed(_sizes(spec)):
        text = f"[{text}]" if size == 1 else f"[{text}]*{size}"
    return text


def _array(spec: TensorDescription) -> str:
    if spec.dtype == "bytes":
        return _expression(spec)
    sizes = _sizes(spec)
    shape = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(map(str, sizes))})"
    if spec.dtype == "bfloat16":
        # NumPy has no such dtype; the client converts plain numbers, by the signature.
        return _expression(TensorDescription("float32", spec.shape))
    return f"np.ones({shape}, np.{'bool_' if spec.dtype == 'bool' else spec.dtype})"
