"""Feature values of examples, for Classify and Regress."""

from __future__ import annotations

from servable.client._arrays import to_array
from servable.errors import InvalidInputError

Values = list[bytes] | list[float] | list[int]


def feature(name: str, value: object) -> tuple[str, Values]:
    """One feature of an example.

    Args:
        name: The feature's name, for messages.
        value: A value, a list or an array; text and bytes, floats, or integers and booleans.

    Returns:
        The kind of the list (`bytes_list`, `float_list` or `int64_list`), and its values.

    Raises:
        InvalidInputError: The values are of no such kind.
    """
    what = f'feature "{name}"'
    array = to_array(what, value)
    values = array.reshape(-1)
    kind = array.dtype.kind
    if array.dtype == object:
        return "bytes_list", values.tolist()
    if kind in "bui":
        integers = [int(element) for element in values.tolist()]
        if integers and max(integers) >= 2**63:
            raise InvalidInputError(f"{what}: got {max(integers)}, want numbers below 2**63")
        return "int64_list", integers
    if kind == "c":
        raise InvalidInputError(f"{what}: got {array.dtype.name}, want text, floats or integers")
    return "float_list", [float(element) for element in values.tolist()]
