"""Options of a kind of servable: `servable_options { options { key: "…" value: "…" } }` as a dataclass."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from servable.errors import ConfigError

Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a kind that has none."""


def parse_options(options_type: type[Options], texts: Mapping[str, str]) -> Options:
    """Read options by the fields of a dataclass.

    Fields are of type `int`, `float`, `bool`, `str` or `tuple[str, ...]` (separated by commas), and have defaults. The
    dataclass may check values in `__post_init__`, and then raises a `ValueError` that says what was found and wanted.

    Args:
        options_type: The dataclass.
        texts: The configured values, by name.

    Raises:
        ConfigError: An option is unknown, or its value is invalid.
    """
    known = [field.name for field in fields(options_type)]  # type: ignore[arg-type]  # the contract
    types = typing.get_type_hints(options_type)
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in known:
            wanted = (
                f"want one of {', '.join(sorted(known))}" if known else "its kind has no options"
            )
            raise ConfigError(f'got option "{name}", {wanted}')
        description, read = _READERS[types[name]]
        try:
            values[name] = read(text)
        except ValueError:
            raise ConfigError(f'option "{name}": got "{text}", want {description}') from None
    try:
        return options_type(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _read_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


_READERS: Mapping[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("a whole number", int),
    float: ("a number", float),
    bool: ("true or false", _read_bool),
    str: ("a text", str),
    tuple[str, ...]: ("names, separated by commas", _read_names),
}
