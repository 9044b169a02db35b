"""What calls return."""

from __future__ import annotations

import enum
import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from servable.client._arrays import Array
from servable.errors import Code, InvalidInputError


class Prediction(Mapping[str, Array]):
    """The outputs of one call, by name.

    Where there is one output, the prediction can be used in its place: `np.asarray(prediction)`,
    or `prediction.value`.

    Attributes:
        model: The name of the model that answered.
        version: The version that answered; None over REST, which does not tell.
    """

    def __init__(self, model: str, version: int | None, outputs: Mapping[str, Array]) -> None:
        """Keep what was decoded."""
        self.model = model
        self.version = version
        self._outputs = dict(outputs)

    @property
    def value(self) -> Array:
        """The output, where there is one.

        Raises:
            InvalidInputError: There are several, or none.
        """
        if len(self._outputs) != 1:
            names = ", ".join(self._outputs) or "none"
            raise InvalidInputError(f"outputs of {self.model}: asked for the only one of {names}")
        return next(iter(self._outputs.values()))

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The only output, for NumPy."""
        return self.value.astype(dtype or self.value.dtype, copy=bool(copy))

    def __repr__(self) -> str:
        return f"Prediction({self._title()}: {self._outputs!r})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(output.dtype))} "
            f"{list(output.shape)}</td><td><pre>"
            f"{html.escape(np.array2string(output, threshold=20))}</pre></td></tr>"
            for name, output in self.items()
        )
        return f"<p><b>{html.escape(self._title())}</b></p><table><tbody>{rows}</tbody></table>"

    def _title(self) -> str:
        return self.model if self.version is None else f"{self.model}/{self.version}"


class Class(NamedTuple):
    """One class of an example.

    Attributes:
        label: Its name; empty if the model gives none.
        score: 0 if the model gives none.
    """

    label: str
    score: float


Classes = list[list[Class]]
"""The classes of each example."""


class State(str, enum.Enum):
    """Where a version is in its life."""

    UNKNOWN = "UNKNOWN"
    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model.

    Attributes:
        version: Its number.
        state: Where it is in its life.
        code: OK, or what went wrong with it.
        message: What went wrong; empty if nothing did.
    """

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


class InferenceTask(NamedTuple):
    """What `multi_inference` shall ask of the examples.

    Attributes:
        method: `classify` or `regress`.
        signature: Which signature; the default one if empty.
    """

    method: str
    signature: str = ""
