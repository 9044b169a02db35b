"""The signatures of a version, read from its files without running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from servable._server.config.text_proto import new_message
from servable.errors import InvalidInputError, LoadError, NotFoundError
from servable.loaders._example_features import example_features
from servable.signature import (
    DATA_TYPES,
    SPARSE_PARTS,
    Signature,
    TensorSpec,
    kind_of_parts,
    part_names,
)

_SAVED_MODEL = "servable.SavedModelView"
_NAMES = {number: name for name, number in DATA_TYPES.items()}
_PREDICT = "tensorflow/serving/predict"
_INTERNAL = "__"
"""The prefix of TensorFlow's internal signatures, such as `__saved_model_init_op`."""


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """A tensor of a signature.

    Attributes:
        dtype: NumPy's name, `bytes` for strings; TensorFlow's where NumPy has none.
        shape: The sizes of its axes, `None` for a variable size; a shape of `None` allows any number of axes.
        part_of: The composite value that the tensor belongs to, such as `ragged r`; empty for most.
    """

    dtype: str
    shape: tuple[int | None, ...] | None
    part_of: str = ""

    def __str__(self) -> str:
        """For example `float32 [?, 3]`."""
        part_of = f" (of {self.part_of})" if self.part_of else ""
        if self.shape is None:
            return f"{self.dtype} of any shape{part_of}"
        sizes = ", ".join("?" if s is None else str(s) for s in self.shape)
        return f"{self.dtype} [{sizes}]{part_of}"


@dataclass(frozen=True, slots=True)
class SignatureDescription:
    """One way to call a model.

    Attributes:
        method: The method that it was exported for: `predict`, `classify` or `regress`.
        inputs: The inputs, by name.
        outputs: The outputs, by name.
        example: For classify and regress, a value by feature; empty if the features are unknown.
    """

    method: str
    inputs: Mapping[str, TensorDescription]
    outputs: Mapping[str, TensorDescription]
    example: Mapping[str, Any] = field(default_factory=dict)


class UndescribedError(LoadError):
    """The signatures of a version are unknown until it is loaded."""


def saved_model_signatures(
    directory: str, tags: Sequence[str]
) -> Mapping[str, SignatureDescription]:
    """The signatures of a SavedModel.

    Args:
        directory: The version.
        tags: The tags of the meta graph.

    Raises:
        ServableError: There is no such model, or it cannot be read.
    """
    for meta_graph in _read_saved_model(directory).meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            features = example_features(meta_graph.graph_def)
            return described(meta_graph.signature_def, features)
    raise NotFoundError(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}; "
        f"{directory} has {_tag_sets(directory)}"
    )


def _read_saved_model(directory: str) -> Any:
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError

    message: Any = new_message(_SAVED_MODEL)
    binary, text = Path(directory, "saved_model.pb"), Path(directory, "saved_model.pbtxt")
    try:
        if not binary.exists() and text.exists():
            text_format.Parse(text.read_text(), message, allow_unknown_field=True)
        else:
            message.ParseFromString(binary.read_bytes())
    except OSError as error:
        raise NotFoundError(f"{error.filename}: {error.strerror}") from error
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{directory}: saved_model.pb is damaged: {error}") from error
    return message


def _tag_sets(directory: str) -> str:
    sets = [graph.meta_info_def.tags for graph in _read_saved_model(directory).meta_graphs]
    return ", ".join(f"{{ {' '.join(sorted(tags))} }}" for tags in sets) or "none"


def described(
    signatures: Mapping[str, Any], features: Mapping[str, Any] | None = None
) -> Mapping[str, SignatureDescription]:
    return {
        name: SignatureDescription(
            (message.method_name or _PREDICT).rpartition("/")[2],
            _tensors(message.inputs),
            _tensors(message.outputs),
            {} if message.method_name in ("", _PREDICT) else features or {},
        )
        for name, message in sorted(signatures.items())
        if not name.startswith(_INTERNAL)
    }


def _tensors(infos: Mapping[str, Any]) -> Mapping[str, TensorDescription]:
    found = (item for name, info in infos.items() for item in _parts(name, info))
    return dict(sorted(found))


def _parts(name: str, info: Any) -> Iterator[tuple[str, TensorDescription]]:
    """A tensor by its name, or the tensors of a sparse or composite value."""
    encoding = info.WhichOneof("encoding")
    if encoding == "coo_sparse":
        rank = None if info.tensor_shape.unknown_rank else len(info.tensor_shape.dim)
        values = TensorDescription(_dtype(info), (None,), f"sparse {name}")
        shapes = ((None,), (None, rank), (rank,))
        for part, shape in zip(SPARSE_PARTS, shapes, strict=True):
            dtype = values.dtype if part == "values" else "int64"
            yield f"{name}.{part}", replace(values, dtype=dtype, shape=shape)
    elif encoding == "composite_tensor":
        composite = info.composite_tensor
        classes = composite.type_spec.DESCRIPTOR.fields_by_name["type_spec_class"].enum_type
        number = composite.type_spec.type_spec_class
        found = classes.values_by_number.get(number)
        class_name = found.name if found else ""
        part_of = f"{kind_of_parts(class_name)} {name}"
        names = part_names(class_name, len(composite.components))
        for part, component in zip(names, composite.components, strict=True):
            for part_name, tensor in _parts(f"{name}.{part}", component):
                yield part_name, replace(tensor, part_of=part_of)
    else:
        yield name, _tensor(info)


def _dtype(info: Any) -> str:
    dtype = _NAMES.get(info.dtype)
    if dtype is None:
        names = info.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
        dtype = names[info.dtype].name if info.dtype in names else str(info.dtype)
    return dtype


def _tensor(info: Any) -> TensorDescription:
    dtype, shape = _dtype(info), info.tensor_shape
    if shape.unknown_rank:
        return TensorDescription(dtype, None)
    return TensorDescription(
        dtype, tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)
    )


def declared_signatures(signatures: Mapping[str, Signature]) -> Mapping[str, SignatureDescription]:
    """The descriptions of signatures that code declares."""
    return {name: _declared(signature) for name, signature in signatures.items()}


def _declared(signature: Signature) -> SignatureDescription:
    def tensor(spec: TensorSpec) -> TensorDescription:
        return TensorDescription(spec.dtype, None if spec.shape is None else tuple(spec.shape))

    return SignatureDescription(
        "predict",
        {name: tensor(spec) for name, spec in sorted(signature.inputs.items())},
        {name: tensor(spec) for name, spec in sorted(signature.outputs.items())},
    )
