"""Inputs that were passed as one value, or as named arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servable.errors import InvalidInputError

NOT_GIVEN: Any = object()
"""Stands for an argument that was left out; None might be meant as a value."""


def one_or_named(model: str, inputs: Any, named: Mapping[str, Any]) -> Any:
    """What was passed: the value, or the named arguments as a dictionary.

    Raises:
        InvalidInputError: Both were passed.
    """
    if inputs is NOT_GIVEN:
        return named
    if named:
        names = ", ".join(named)
        raise InvalidInputError(f"inputs of {model}: got a value and also {names}, want only one")
    return inputs
