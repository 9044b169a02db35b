"""The results of calls."""

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

    With a single output, the prediction can be used in its place: `np.asarray(prediction)`, or `prediction.value`.

    Attributes:
        model: The name of the model that answered.
        version: The version that answered; None over REST, which does not report it.
    """

    def __init__(self, model: str, version: int | None, outputs: Mapping[str, Array]) -> None:
        """Store the decoded outputs."""
        self.model = model
        self.version = version
        self._outputs = dict(outputs)

    @property
    def value(self) -> Array:
        """The only output.

        Raises:
            InvalidInputError: There are several outputs, or none.
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
        label: The class's name; empty if the model gives none.
        score: 0 if the model gives none.
    """

    label: str
    score: float


Classes = list[list[Class]]
"""The classes of each example."""


class State(str, enum.Enum):
    """The state of a version."""

    UNKNOWN = "UNKNOWN"
    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The status of one version of a model.

    Attributes:
        version: The version number.
        state: The version's state.
        code: OK, or the code of the version's error.
        message: The version's error; empty if it has none.
    """

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


class InferenceTask(NamedTuple):
    """A task of `multi_inference`.

    Attributes:
        method: `classify` or `regress`.
        signature: Which signature; the default one if empty.
    """

    method: str
    signature: str = ""
