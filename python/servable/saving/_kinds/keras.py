"""Keras: `model.export()` makes a SavedModel; the original lies beside it as `model.keras`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._calling import arrays_of, outputs_by_name, wanted_outputs
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example
from servable.saving._kinds.tensorflow import array, as_tensor, tensor_spec

ORIGINAL_FILE = "model.keras"

_GENERATED_NAME = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")
"""Names that Keras gives to inputs; they depend on how many models the process has made."""


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Export a model, and keep the original."""
    keras = required("keras", "'keras'")
    if not isinstance(model, keras.Model):
        raise SaveError(f"got a {type(model).__name__} of Keras, want a keras.Model")
    tf = required("tensorflow", "tensorflow")
    names = _input_names(model, example)
    inputs = example.named(names)
    specs = {name: tensor_spec(tf, name, spec) for name, spec in example.specs(names).items()}
    tensors = {name: as_tensor(tf, name, inputs[name], specs[name]) for name in names}
    takes_mapping = isinstance(getattr(model, "_inputs_struct", None), Mapping) or (
        isinstance(example.given, Mapping) and not getattr(model, "_is_graph_network", False)
    )
    wanted = wanted_outputs(example)

    def call(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        values = [tensors[name] for name in names]
        given = dict(tensors) if takes_mapping else values[0] if len(values) == 1 else values
        return outputs_by_name(model(given, training=False), wanted)

    expected = arrays_of(call(tensors))
    archive = keras.export.ExportArchive()
    archive.track(model)

    def serve(*values: Any) -> Mapping[str, Any]:
        return call(dict(zip(names, values, strict=True)))

    archive.add_endpoint("serve", serve, input_signature=[specs[name] for name in names])
    archive.write_out(str(directory), verbose=False)
    model.save(directory / ORIGINAL_FILE)
    return Conversion(
        kind="keras",
        platform="tensorflow",
        inputs={name: array(tensor) for name, tensor in tensors.items()},
        expected=expected,
        libraries=("keras", "tensorflow"),
    )


def _input_names(model: Any, example: Example) -> tuple[str, ...]:
    """The names that the model or the example gives; `inputs` for one without."""
    if example.names is not None and not example.is_table:
        return example.names
    inputs = getattr(model, "_inputs_struct", None)
    if isinstance(inputs, Mapping):
        return tuple(inputs)
    found = tuple(str(tensor.name) for tensor in getattr(model, "inputs", None) or ())
    if any(_GENERATED_NAME.fullmatch(name) for name in found) or not found:
        count = len(example.arrays)
        return ("inputs",) if count == 1 else tuple(f"input_{n}" for n in range(count))
    return found
