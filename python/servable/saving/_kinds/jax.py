"""JAX: functions become SavedModels by jax2tf; the original lies beside it as `model.jax`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._calling import input_names
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example
from servable.saving._kinds.tensorflow import saved_function
from servable.signature import TensorSpec

ORIGINAL_FILE = "model.jax"
"""Serialized by `jax.export`."""

_PLATFORMS = ("cpu", "cuda")
"""Where a server may run it, whatever this process has."""


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Compile a function for any batch size into a SavedModel."""
    jax = required("jax", "jax")
    jax2tf = required("jax.experimental.jax2tf", "jax")
    if not callable(model):
        raise SaveError(f"got a {type(model).__name__} of JAX, want a function: pass `jax.jit(f)`")
    specs = example.specs(input_names(model, example))
    shapes = [_symbolic(spec) for spec in specs.values()]
    converted = jax2tf.convert(
        model,
        polymorphic_shapes=shapes,
        with_gradient=False,
        native_serialization_platforms=_PLATFORMS,
    )

    def original(*tensors: Any) -> Any:
        return model(*(tensor.numpy() for tensor in tensors))

    original.__signature__ = inspect.signature(model)  # type: ignore[attr-defined] # names of inputs
    conversion = saved_function(
        converted, example, directory, "jax", ("jax", "jaxlib", "tensorflow"), original
    )
    symbols = jax.export.symbolic_args_specs([*conversion.inputs.values()], shapes)
    exported = jax.export.export(jax.jit(model), platforms=_PLATFORMS)(*symbols)
    (directory / ORIGINAL_FILE).write_bytes(exported.serialize())
    return conversion


def _symbolic(spec: TensorSpec) -> str:
    """The shape in the notation of JAX, with a variable for each free axis."""
    sizes = ("b" if axis == 0 else f"d{axis}" for axis, _ in enumerate(spec.shape or ()))
    parts = (
        name if size is None else str(size)
        for name, size in zip(sizes, spec.shape or (), strict=True)
    )
    return f"({', '.join(parts)},)"
