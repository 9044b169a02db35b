"""PyTorch: modules are exported to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._calling import arrays_of, input_names, outputs_by_name, wanted_outputs
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example
from servable.saving._onnx_graph import OPSETS, OnnxGraph


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Export a module in evaluation mode; axis 0 stays free."""
    torch = required("torch", "torch")
    required("onnxscript", "torch")
    if not isinstance(model, torch.nn.Module):
        raise SaveError(f"got a {type(model).__name__} of PyTorch, want a torch.nn.Module")
    names = input_names(model.forward, example)
    specs = example.specs(names)
    inputs = {name: array.astype(specs[name].dtype) for name, array in example.named(names).items()}
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    tensors = tuple(torch.from_numpy(array.copy()).to(device) for array in inputs.values())
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = outputs_by_name(model(*tensors), wanted_outputs(example))
        program = _export(torch, model, tensors, specs, names, tuple(outputs))
    finally:
        model.train(was_training)
    graph = OnnxGraph(program.model_proto)
    graph.write(directory)
    return Conversion(
        kind="torch",
        platform="onnx",
        inputs=inputs,
        expected=arrays_of(outputs),
        libraries=("onnx", "onnxruntime", "onnxscript", "torch"),
    )


def _export(
    torch: Any,
    model: Any,
    tensors: Any,
    specs: Any,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> Any:
    # The exporter takes an axis of size 1 for a constant.
    tensors = tuple(torch.cat([each, each]) if each.shape[0] == 1 else each for each in tensors)
    batch = torch.export.Dim("batch")
    shapes = tuple(
        {
            axis: batch if axis == 0 else torch.export.Dim.DYNAMIC
            for axis, size in enumerate(specs[name].shape or ())
            if size is None
        }
        for name in names
    )
    try:
        return torch.onnx.export(
            model,
            tensors,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(names),
            output_names=list(outputs),
            opset_version=OPSETS[""],
            verbose=False,
        )
    except Exception as error:  # the border to the exporter, which raises all kinds
        raise SaveError(
            f"{type(model).__name__} cannot be exported to ONNX: {type(error).__name__}: {error}"
        ) from error
