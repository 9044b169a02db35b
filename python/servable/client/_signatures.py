"""The metadata of a model: its signatures, readable in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from servable.errors import FailedPreconditionError, InvalidInputError
from servable.signature import DEFAULT_SIGNATURE, SPARSE_PARTS

INTERNAL_PREFIX = "__"
"""The prefix of signature names that TensorFlow reserves."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a signature.

    Attributes:
        dtype: NumPy's name, such as `float32`; `bytes` for strings. TensorFlow's name where NumPy has none, such as
            `DT_RESOURCE`.
        shape: The sizes of the axes, None for a variable size. A shape of None allows any number of axes.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        """For example `float32 [?, 3]`."""
        if self.shape is None:
            return f"{self.dtype} (any shape)"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{sizes}]"


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """One way to call a model.

    Attributes:
        inputs: The inputs, by name.
        outputs: The outputs, by name.
        method_name: The method that it was exported for, such as `tensorflow/serving/predict`.
        optional: Names of inputs that have a default value.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method_name: str = ""
    optional: frozenset[str] = frozenset()

    def only_input(self, model: str) -> str:
        """The name of the only input.

        Raises:
            InvalidInputError: There is no input, or there are several.
        """
        required = [name for name in self.inputs if name not in self.optional]
        for names in (list(self.inputs), required):
            if len(names) == 1:
                return names[0]
        raise InvalidInputError(
            f"inputs of {model}: got one value without a name, want {_names(self.inputs)}"
        )

    def check_input_names(self, model: str, names: Iterable[str], *, all_wanted: bool) -> None:
        """Compare a request's input names with the signature.

        Args:
            model: The model's name, for messages.
            names: The names of the inputs.
            all_wanted: Whether inputs with a default value are required, too.

        Raises:
            InvalidInputError: Names are unknown, or missing.
        """
        given = set(names)
        wanted = set(self.inputs) if all_wanted else set(self.inputs) - self.optional
        if given - set(self.inputs) or wanted - given:
            raise InvalidInputError(
                f"inputs of {model}: got {_names(given)}, want {_names(self.inputs)}"
            )

    def check_output_names(self, model: str, names: Iterable[str]) -> None:
        """Compare an output filter with the signature.

        Raises:
            InvalidInputError: Some outputs do not exist.
        """
        if unknown := set(names) - set(self.outputs):
            raise InvalidInputError(
                f"outputs of {model}: asked for {_names(unknown)}, there is {_names(self.outputs)}"
            )

    def __str__(self) -> str:
        """For example `x: float32 [?] → y: float32 [?]`."""
        return f"{_listed(self.inputs)} → {_listed(self.outputs)}"

    def _repr_html_(self) -> str:
        return _table(_rows("", self))


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The signatures of one version.

    Attributes:
        name: The model's name.
        version: The version number.
        signatures: The signatures, by name.
    """

    name: str
    version: int
    signatures: Mapping[str, ModelSignature] = field(repr=False)

    def signature(self, name: str = "") -> ModelSignature:
        """One signature; the default one if no name is given.

        Raises:
            FailedPreconditionError: The signature does not exist.
        """
        wanted = name or DEFAULT_SIGNATURE
        if wanted not in self.signatures:
            raise FailedPreconditionError(
                f'signatures of {self.name}/{self.version}: asked for "{wanted}", there is '
                f"{_names(n for n in self.signatures if not n.startswith(INTERNAL_PREFIX))}"
            )
        return self.signatures[wanted]

    def __repr__(self) -> str:
        """A line for each signature, without TensorFlow's internal ones."""
        lines = [f"{name}: {signature}" for name, signature in self._public()]
        return "\n  ".join([f"{self.name}/{self.version}", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(_rows(name, signature) for name, signature in self._public())
        title = html.escape(f"{self.name}/{self.version}")
        return f"<p><b>{title}</b></p>{_table(rows)}"

    def _public(self) -> list[tuple[str, ModelSignature]]:
        return [
            (name, signature)
            for name, signature in sorted(self.signatures.items())
            if not name.startswith(INTERNAL_PREFIX)
        ]


def sparse_parts(alias: str, dtype: str, rank: int | None) -> Iterator[tuple[str, TensorInfo]]:
    """The tensors of a sparse value, each of which is a separate input or output."""
    tensors = (
        TensorInfo(dtype, (None,)),
        TensorInfo("int64", (None, rank)),
        TensorInfo("int64", (rank,)),
    )
    for part, tensor in zip(SPARSE_PARTS, tensors, strict=True):
        yield f"{alias}.{part}", tensor


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names)) or "none"


def _listed(tensors: Mapping[str, TensorInfo]) -> str:
    return ", ".join(f"{name}: {tensor}" for name, tensor in sorted(tensors.items())) or "nothing"


def _rows(name: str, signature: ModelSignature) -> str:
    rows = []
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for tensor_name, tensor in sorted(tensors.items()):
            note = " (optional)" if kind == "input" and tensor_name in signature.optional else ""
            cells = (name, kind + note, tensor_name, str(tensor))
            rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    return "".join(f"<tr>{row}</tr>" for row in rows)


def _table(rows: str) -> str:
    heads = "".join(f"<th>{head}</th>" for head in ("signature", "", "tensor", "dtype and shape"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
