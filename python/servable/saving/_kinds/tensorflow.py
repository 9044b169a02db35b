"""TensorFlow: modules, functions and loaded SavedModels, as SavedModels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._calling import (
    arrays_of,
    input_names,
    outputs_by_name,
    takes_mapping,
    wanted_outputs,
)
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example
from servable.signature import DEFAULT_SIGNATURE, TensorSpec


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Write a SavedModel; the function of the model gets the tensors of the example."""
    signatures = getattr(model, "signatures", None)
    if signatures and DEFAULT_SIGNATURE in signatures:
        return _exported(model, signatures, example, directory)
    if not callable(model):
        raise SaveError(
            f"got a {type(model).__name__} without a method __call__ and without signatures, want either"
        )
    return saved_function(model, example, directory, "tensorflow", ("tensorflow",))


def saved_function(
    function: Callable[..., Any],
    example: Example,
    directory: Path,
    kind: str,
    libraries: tuple[str, ...],
    original: Callable[..., Any] | None = None,
) -> Conversion:
    """Write a function of tensors as a SavedModel.

    Args:
        function: Takes and returns tensors; its variables are saved.
        example: Its inputs.
        directory: The version directory.
        kind: The framework of the original.
        libraries: The distributions that wrote it.
        original: What the outputs are compared with; by default the function.
    """
    tf = required("tensorflow", "tensorflow")
    original = original or function
    names = input_names(original, example)
    as_mapping = takes_mapping(original, names)
    wanted = wanted_outputs(example)

    def call(called: Callable[..., Any], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = called(inputs) if as_mapping else called(*(inputs[name] for name in names))
        return outputs_by_name(outputs, wanted)

    def serve(**tensors: Any) -> Mapping[str, Any]:
        return call(function, tensors)

    inputs = example.named(names)
    specs = {name: tensor_spec(tf, name, spec) for name, spec in example.specs(names).items()}
    concrete = tf.function(serve, autograph=False).get_concrete_function(**specs)
    module = tf.Module()
    module.model = function if isinstance(function, tf.Module) else None
    module.captured = [*concrete.variables]
    tf.saved_model.save(module, str(directory), signatures={DEFAULT_SIGNATURE: concrete})
    tensors = {name: as_tensor(tf, name, inputs[name], specs[name]) for name in names}
    return Conversion(
        kind=kind,
        platform="tensorflow",
        inputs={name: array(tensor) for name, tensor in tensors.items()},
        expected=arrays_of(call(original, tensors)),
        libraries=libraries,
    )


def tensor_spec(tf: Any, name: str, spec: TensorSpec) -> Any:
    """A `tf.TensorSpec`."""
    dtype = tf.string if spec.dtype == "bytes" else tf.as_dtype(spec.dtype)
    return tf.TensorSpec(spec.shape, dtype, name)


def as_tensor(tf: Any, name: str, value: Any, spec: Any) -> Any:
    """An array as a tensor of the dtype of a `tf.TensorSpec`."""
    try:
        return (
            tf.cast(value, spec.dtype) if value.dtype != object else tf.constant(value, spec.dtype)
        )
    except (TypeError, ValueError) as error:
        raise SaveError(f'input "{name}": got {value.dtype}, want {spec.dtype.name}') from error


def array(tensor: Any) -> Any:
    """A tensor as an array."""
    return tensor.numpy()


def _exported(
    model: Any, signatures: Mapping[str, Any], example: Example, directory: Path
) -> Conversion:
    """Write an object that `tf.saved_model.load` returned, with all its signatures."""
    tf = required("tensorflow", "tensorflow")
    function = signatures[DEFAULT_SIGNATURE]
    specs = function.structured_input_signature[1]
    inputs = example.named(tuple(specs))
    tensors = {name: as_tensor(tf, name, value, specs[name]) for name, value in inputs.items()}
    tf.saved_model.save(model, str(directory), signatures=dict(signatures))
    return Conversion(
        kind="tensorflow",
        platform="tensorflow",
        inputs={name: array(tensor) for name, tensor in tensors.items()},
        expected=arrays_of(function(**tensors)),
        libraries=("tensorflow",),
    )
