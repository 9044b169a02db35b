"""Inputs as one value, or as keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servable.errors import InvalidInputError

NOT_GIVEN: Any = object()
"""The default of an omitted argument; None could be a value."""


def one_or_named(model: str, inputs: Any, named: Mapping[str, Any]) -> Any:
    """The inputs of a call: the value, or the keyword arguments as a dictionary.

    Raises:
        InvalidInputError: Both were passed.
    """
    if inputs is NOT_GIVEN:
        return named
    if named:
        names = ", ".join(named)
        raise InvalidInputError(f"inputs of {model}: got a value and also {names}, want only one")
    return inputs
