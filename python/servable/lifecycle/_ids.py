"""How one version of a servable is named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ServableId:
    """One version of a servable.

    Prints as status messages and logs show it: `{name: half_plus_two version: 3}`.

    Attributes:
        name: The servable stream, which is the model's name on the outside.
        version: A 64-bit number; larger means newer.
    """

    name: str
    version: int

    def __str__(self) -> str:
        """The form that logs and error messages use."""
        return f"{{name: {self.name} version: {self.version}}}"
