"""Runs PyTorch's own files by PyTorch, in a worker process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servable.errors import Code, LoadError
from servable.loaders._derived_signatures import derived_signature, specs_of
from servable.loaders._function import loading
from servable.loaders._manifest import Manifest, read_manifest
from servable.loaders._torch_files import TorchFormat, format_of, require_trust, torch_file
from servable.loaders._torch_packages import CompiledPackage
from servable.loaders._wheels import require_package
from servable.signature import DEFAULT_SIGNATURE, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """Options of models that PyTorch runs.

    Attributes:
        intra_op_threads: The threads of one worker that share the operations of a run; 0 divides the CPUs among the
            workers.
        inputs: The inputs in the order of `forward`, such as `x: float32 [?, 4]`, of files that do not describe them.
    """

    intra_op_threads: int = 0
    inputs: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.intra_op_threads <= 1024:
            raise ValueError(
                f'option "intra_op_threads": got {self.intra_op_threads}, want 0 to 1024'
            )
        try:
            specs_of(self.inputs)
        except ValueError as error:
            raise ValueError(f'option "inputs": {error}') from error


@dataclass(frozen=True, slots=True)
class _Program:
    """A module in memory.

    Attributes:
        call: Takes tensors in the order of the inputs.
        signature: The signature, if the file has it.
        accept: Called with the signature after the module has run on zeros, if it has to.
    """

    call: Callable[..., Any]
    signature: Signature | None = None
    accept: Callable[[Signature], None] | None = None


def require_torch() -> None:
    """Check early that PyTorch can run models.

    Raises:
        LoadError: It is not installed.
    """
    require_package("PyTorch", "torch", extra="torch")


def open_torch(
    version: Path, *, options: TorchOptions, is_trusted: bool, workers: int
) -> TorchModel:
    """Open a file of PyTorch.

    Args:
        version: The file, or a version directory.
        options: The options of the model.
        is_trusted: Whether files that run code when they are read may be read.
        workers: The number of processes that run the model.

    Raises:
        LoadError: It cannot be read, or is not trusted.
    """
    name = torch_file(os.listdir(version)) if version.is_dir() else ""
    if name is None:
        raise LoadError(f"{version} has no file of PyTorch", code=Code.NOT_FOUND)
    file = version / name
    found = format_of(file)
    require_trust(file, found, is_trusted=is_trusted)
    require_torch()
    manifest = read_manifest(version) if version.is_dir() else None
    with loading(file):
        import torch

        torch.set_num_threads(options.intra_op_threads or max(1, _cpus() // workers))
        program = _READERS[found](torch, file)
        return TorchModel(torch, program, _given_signature(manifest), specs_of(options.inputs))


class TorchModel:
    """An open module; see `servable.loaders.FunctionModel`."""

    is_repeatable = True

    def __init__(
        self,
        torch: Any,
        program: _Program,
        signature: Signature | None,
        inputs: Mapping[str, TensorSpec],
    ) -> None:
        """Find the signature of a program.

        Args:
            torch: The package.
            program: The program.
            signature: The signature, if the manifest has it.
            inputs: The inputs, if the configuration has them.

        Raises:
            LoadError: The inputs are unknown.
            Exception: Raised by the program for zeros.
        """
        self._torch = torch
        self._call = program.call
        self._output_names: tuple[str, ...] = ()
        signature = signature or program.signature
        if signature is None and not inputs:
            raise LoadError(
                "the file does not describe its inputs; save the module with `servable.save`, or set the option "
                '"inputs", such as "x: float32 [?, 4]"',
                code=Code.FAILED_PRECONDITION,
                may_pass=False,
            )
        if signature is None or program.accept is not None:
            signature = derived_signature(signature.inputs if signature else inputs, self._run)
        if program.accept is not None:
            program.accept(signature)
        self._output_names = tuple(signature.outputs)
        self._input_names = tuple(signature.inputs)
        self.signatures = {DEFAULT_SIGNATURE: signature}

    def run(self, signature_name: str, inputs: Mapping[str, Any], deadline: float) -> Any:
        """Run a batch, without gradients."""
        del signature_name, deadline
        return self._run({name: inputs[name] for name in self._input_names})

    def close(self) -> None:
        """Leave the memory to the process."""

    def _run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._torch.inference_mode():
            outputs = self._call(*(_tensor(self._torch, each) for each in inputs.values()))
        return {
            name: _array(self._torch, value)
            for name, value in named_outputs(outputs, self._output_names).items()
        }


def named_outputs(outputs: Any, names: Sequence[str] = ()) -> Mapping[str, Any]:
    """The outputs of a module: those of a dictionary or named tuple, or `output_0` and so on.

    Args:
        outputs: What the module returned.
        names: The names of the outputs of a tuple, if they are known.

    Raises:
        LoadError: One of them is no tensor.
    """
    if isinstance(outputs, Mapping):
        found = {str(name): value for name, value in outputs.items()}
    elif hasattr(outputs, "_asdict"):
        found = dict(outputs._asdict())
    else:
        values = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
        if len(names) != len(values):
            names = [f"output_{number}" for number in range(len(values))]
        found = dict(zip(names, values, strict=True))
    for name, value in found.items():
        if not hasattr(value, "dtype"):
            raise LoadError(
                f'output "{name}": got {type(value).__name__}, want a tensor',
                code=Code.INVALID_ARGUMENT,
                may_pass=False,
            )
    return found


def _tensor(torch: Any, array: Any) -> Any:
    # A copy: modules may change their inputs, or return them.
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _array(torch: Any, tensor: Any) -> Any:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def program_signature(torch: Any, program: Any) -> Signature:
    """The inputs and outputs of a program of `torch.export`.

    Args:
        torch: The package.
        program: A `torch.export.ExportedProgram`.

    Raises:
        LoadError: An input or an output is no tensor.
    """
    kinds = torch.export.graph_signature
    nodes = {node.name: node for node in program.graph.nodes}
    inputs = {
        spec.arg.name: _spec(spec.arg.name, nodes[spec.arg.name].meta["val"])
        for spec in program.graph_signature.input_specs
        if spec.kind is kinds.InputKind.USER_INPUT and not hasattr(spec.arg, "value")
    }
    (returned,) = (node.args[0] for node in program.graph.nodes if node.op == "output")
    values = [
        getattr(node, "meta", {}).get("val", node)
        for node, spec in zip(returned, program.graph_signature.output_specs, strict=True)
        if spec.kind is kinds.OutputKind.USER_OUTPUT
    ]
    tree = torch.utils._pytree.tree_unflatten(values, program.call_spec.out_spec)
    return Signature(
        inputs, {name: _spec(name, value) for name, value in named_outputs(tree).items()}
    )


def _read_program(torch: Any, file: Path) -> _Program:
    program = torch.export.load(file)
    module = program.module()
    # Constants among the arguments are part of the program.
    arguments = [
        spec.arg
        for spec in program.graph_signature.input_specs
        if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT
    ]
    leaves = [getattr(each, "value", None) for each in arguments]
    places = [place for place, each in enumerate(arguments) if not hasattr(each, "value")]

    def call(*tensors: Any) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        positional, named = torch.utils._pytree.tree_unflatten(filled, program.call_spec.in_spec)
        return module(*positional, **named)

    return _Program(call, program_signature(torch, program))


def _read_script(torch: Any, file: Path) -> _Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch deprecates it
        module = torch.jit.load(str(file), map_location="cpu")
    return _Program(module.eval())


def _read_package(torch: Any, file: Path) -> _Program:
    package = CompiledPackage(torch, file)
    return _Program(package, accept=package.accept)


def _read_pickle(torch: Any, file: Path) -> _Program:
    found = torch.load(file, map_location="cpu", weights_only=False)
    if not isinstance(found, torch.nn.Module):
        raise LoadError(
            f"{file}: got {type(found).__name__}, want a torch.nn.Module; weights alone are no program: load them "
            "into the module, and save that with `servable.save`",
            code=Code.INVALID_ARGUMENT,
            may_pass=False,
        )
    return _Program(found.eval())


_READERS: Mapping[TorchFormat, Callable[[Any, Path], _Program]] = {
    TorchFormat.SCRIPT: _read_script,
    TorchFormat.PROGRAM: _read_program,
    TorchFormat.PACKAGE: _read_package,
    TorchFormat.PICKLE: _read_pickle,
}


def _given_signature(manifest: Manifest | None) -> Signature | None:
    return None if manifest is None else manifest.signatures.get(DEFAULT_SIGNATURE)


def _spec(name: str, value: Any) -> TensorSpec:
    """The spec of a symbolic tensor."""
    if not hasattr(value, "dtype"):
        raise LoadError(
            f'"{name}": got {type(value).__name__}, want a tensor',
            code=Code.INVALID_ARGUMENT,
            may_pass=False,
        )
    shape = [size if isinstance(size, int) else None for size in value.shape]
    return TensorSpec(str(value.dtype).removeprefix("torch."), shape)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
