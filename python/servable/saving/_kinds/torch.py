"""PyTorch: modules are exported to ONNX; programs, and modules without a conversion, are kept for PyTorch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.loaders._torch import program_signature
from servable.saving._calling import arrays_of, input_names, outputs_by_name, wanted_outputs
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example, spec_of
from servable.saving._onnx_graph import MODEL_FILE, OPSETS, OnnxGraph
from servable.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

PROGRAM_FILE = "model.pt2"
SCRIPT_FILE = "model.pt"


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Export a module in evaluation mode, with a free axis 0; write a program as it is."""
    torch = required("torch", "torch")
    if isinstance(model, torch.export.ExportedProgram):
        return _program(torch, model, example, directory)
    if not isinstance(model, torch.nn.Module):
        raise SaveError(
            f"got a {type(model).__name__} of PyTorch, want a torch.nn.Module, or a program of torch.export"
        )
    was_training = model.training
    model.eval()
    try:
        if isinstance(model, torch.jit.ScriptModule):
            return _script(torch, model, example, directory)
        return _module(torch, model, example, directory)
    finally:
        model.train(was_training)


class _Called:
    """A function of tensors, called with the example.

    Attributes:
        specs: The inputs, in the order of the parameters.
        arrays: The example.
        tensors: Likewise, as the function takes it.
        outputs: What the function returned, by name.
    """

    def __init__(
        self,
        torch: Any,
        function: Callable[..., Any],
        example: Example,
        names: tuple[str, ...],
        device: Any,
    ) -> None:
        specs = example.specs(names)
        arrays = example.named(names)
        self.specs: Mapping[str, TensorSpec] = {name: specs[name] for name in names}
        self.arrays: Mapping[str, Any] = {
            name: arrays[name].astype(spec.dtype) for name, spec in self.specs.items()
        }
        self.tensors = tuple(torch.from_numpy(a.copy()).to(device) for a in self.arrays.values())
        with torch.no_grad():
            returned = function(*self.tensors)
        self.outputs = outputs_by_name(returned, wanted_outputs(example))

    def conversion(self, platform: str, libraries: tuple[str, ...]) -> Conversion:
        """The conversion, for a platform that runs ONNX."""
        return Conversion(
            kind="torch",
            platform=platform,
            inputs=self.arrays,
            expected=arrays_of(self.outputs),
            libraries=libraries,
        )

    def kept(self, found: Signature | None = None) -> Conversion:
        """The conversion, for PyTorch itself, which needs the signature.

        Args:
            found: The signature of the program, with names of its own; by default that of the example.
        """
        expected = arrays_of(self.outputs)
        inputs = self.specs
        outputs = {name: spec_of(array, f'output "{name}"') for name, array in expected.items()}
        if found is not None:
            inputs = dict(zip(inputs, found.inputs.values(), strict=True))
            outputs = dict(zip(outputs, found.outputs.values(), strict=True))
        return Conversion(
            kind="torch",
            platform="torch",
            inputs=self.arrays,
            expected=expected,
            libraries=("torch",),
            signatures={DEFAULT_SIGNATURE: Signature(inputs, outputs)},
        )


def _module(torch: Any, model: Any, example: Example, directory: Path) -> Conversion:
    required("onnxscript", "torch")
    names = _positional(input_names(model.forward, example), _parameters(model.forward), model)
    called = _Called(torch, model, example, names, _device_of(torch, model))
    shapes = _dynamic_shapes(torch, called.specs)
    # The exporter takes an axis of size 1 for a constant.
    tensors = tuple(
        torch.cat([each, each]) if each.shape[0] == 1 else each for each in called.tensors
    )
    try:
        program = torch.onnx.export(
            model,
            tensors,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(names),
            output_names=list(called.outputs),
            opset_version=OPSETS[""],
            verbose=False,
        )
        OnnxGraph(program.model_proto).write(directory)
    except Exception as error:  # the border to the exporter, which raises all kinds
        reason = f"{type(model).__name__} cannot be exported to ONNX: {_first_cause(error)}"
        return _kept_in_python(torch, model, called, tensors, shapes, directory, reason)
    return called.conversion("onnx", ("onnx", "onnxruntime", "onnxscript", "torch"))


def _kept_in_python(
    torch: Any,
    model: Any,
    called: _Called,
    tensors: Any,
    shapes: Any,
    directory: Path,
    reason: str,
) -> Conversion:
    """Write a module that has no conversion by `torch.export`, for Python workers.

    Raises:
        SaveError: It cannot be exported either.
    """
    try:
        program = torch.export.export(model, tensors, dynamic_shapes=shapes)
        for left in directory.glob(f"{MODEL_FILE}*"):
            left.unlink()
        torch.export.save(program, directory / PROGRAM_FILE)
    except Exception as error:  # likewise
        raise SaveError(
            f"{reason}; nor can torch.export write it: {_first_cause(error)}"
        ) from error
    warnings.warn(
        f"{reason}. It is saved by torch.export, runs in a Python worker, and needs `trusted: true`.",
        stacklevel=4,
    )
    return called.kept()


def _program(torch: Any, program: Any, example: Example, directory: Path) -> Conversion:
    signature = program_signature(torch, program)
    names = _positional(example.names or tuple(signature.inputs), list(signature.inputs), program)
    if len(names) != len(signature.inputs):
        wanted = ", ".join(signature.inputs)
        raise SaveError(
            f"example: got {len(names)} inputs, want {len(signature.inputs)} ({wanted})"
        )
    module = program.module()
    called = _Called(torch, module, example, names, _device_of(torch, module))
    torch.export.save(program, directory / PROGRAM_FILE)
    return called.kept(signature)


def _script(torch: Any, model: Any, example: Example, directory: Path) -> Conversion:
    parameters = [each.name for each in model.forward.schema.arguments[1:]]
    names = example.names or tuple(parameters[: len(example.arrays)])
    called = _Called(
        torch, model, example, _positional(names, parameters, model), _device_of(torch, model)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch deprecates it
        torch.jit.save(model, str(directory / SCRIPT_FILE))
    return called.kept()


def _first_cause(error: BaseException) -> str:
    """The first line of what led to an error; PyTorch wraps it in a report of many pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _positional(names: tuple[str, ...], parameters: list[str], model: Any) -> tuple[str, ...]:
    """The names of inputs in the order of the parameters, if they are named as these are.

    Raises:
        SaveError: A parameter before the last of them would get no value.
    """
    if not set(names) <= set(parameters):
        return names
    found = tuple(parameters[: len(names)])
    if set(found) != set(names):
        raise SaveError(
            f"example: got the inputs {', '.join(names)}, want the first parameters of {type(model).__name__}: "
            f"{', '.join(found)}"
        )
    return found


def _device_of(torch: Any, model: Any) -> Any:
    return next((each.device for each in model.parameters()), torch.device("cpu"))


def _dynamic_shapes(torch: Any, specs: Mapping[str, TensorSpec]) -> Any:
    batch = torch.export.Dim("batch")
    return tuple(
        {
            axis: batch if axis == 0 else torch.export.Dim.DYNAMIC
            for axis, size in enumerate(spec.shape or ())
            if size is None
        }
        for spec in specs.values()
    )
