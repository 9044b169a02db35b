"""Calls functions of arrays with examples, and names what they take and return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from servable.errors import SaveError
from servable.saving._example import Example, array_of


def input_names(function: Callable[..., Any], example: Example) -> tuple[str, ...]:
    """The names of the inputs: those of the example, or those of the function's parameters."""
    if example.names is not None:
        return example.names
    try:
        parameters = [
            p for p in inspect.signature(function).parameters.values() if _is_positional(p)
        ]
    except (TypeError, ValueError):
        parameters = []
    if len(parameters) >= len(example.arrays):
        return tuple(p.name for p in parameters[: len(example.arrays)])
    if len(example.arrays) == 1:
        return ("inputs",)
    return tuple(f"input_{number}" for number in range(len(example.arrays)))


def takes_mapping(function: Callable[..., Any], names: tuple[str, ...]) -> bool:
    """Whether a function takes its inputs as one dictionary, and not each as an argument."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return (
        len(needed) == 1
        and needed[0].name not in names
        and not any(p.name in names for p in parameters)
    )


def outputs_by_name(outputs: Any, wanted: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    """The outputs of a function by name: those of a dictionary or named tuple, or `output_0` and so on.

    Args:
        outputs: What the function returned.
        wanted: The names that a signature gives to a tuple of outputs, in order.

    Raises:
        SaveError: There are more or fewer than wanted.
    """
    if isinstance(outputs, Mapping):
        return {str(name): value for name, value in outputs.items()}
    if hasattr(outputs, "_asdict"):
        return dict(outputs._asdict())
    values = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    names = wanted or tuple(f"output_{number}" for number in range(len(values)))
    if len(names) != len(values):
        raise SaveError(f"got {len(values)} outputs, want {len(names)}: {', '.join(names)}")
    return dict(zip(names, values, strict=True))


def wanted_outputs(example: Example) -> tuple[str, ...] | None:
    """The names of the outputs in the signature that the caller wants."""
    return None if example.signature is None else tuple(example.signature.outputs)


def arrays_of(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Outputs as arrays."""
    return {name: array_of(value, f'output "{name}"') for name, value in outputs.items()}


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
