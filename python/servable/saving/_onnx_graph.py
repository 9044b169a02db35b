"""Changes inputs and outputs of ONNX graphs, so that clients get names and shapes that fit the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servable.errors import SaveError
from servable.saving._conversion import required
from servable.signature import TensorSpec

MODEL_FILE = "model.onnx"
OPSETS = {"": 18, "ai.onnx.ml": 3}
"""Operators that ONNX Runtime has known since 1.14."""

_BATCH = "batch"
_PREFIX = "servable/"
"""The beginning of the names that are added; converters use no slash there."""


class OnnxGraph:
    """A model whose inputs and outputs are replaced.

    Attributes:
        model: The `ModelProto`; it is changed.
    """

    def __init__(self, model: Any) -> None:
        """Take a model."""
        self._onnx = required("onnx", "'onnx'")
        self.model = model
        self._count = 0
        self._renamed: dict[str, str] = {}

    def write(self, directory: Path) -> None:
        """Check the model and write it; large tensors lie in a file beside it."""
        file = str(directory / MODEL_FILE)
        helper = self._onnx
        try:
            if self.model.ByteSize() < 1 << 30:
                helper.checker.check_model(self.model)
                helper.save_model(self.model, file)
            else:
                helper.save_model(self.model, file, save_as_external_data=True)
                helper.checker.check_model(file)
        except helper.checker.ValidationError as error:
            raise SaveError(f"the converted model is no valid ONNX: {error}") from error

    def input_names(self) -> tuple[str, ...]:
        """The inputs without those that have a value."""
        constants = {each.name for each in self.model.graph.initializer}
        return tuple(each.name for each in self.model.graph.input if each.name not in constants)

    def output_names(self) -> tuple[str, ...]:
        """The outputs, in order."""
        return tuple(each.name for each in self.model.graph.output)

    def remove_zip_maps(self) -> None:
        """Give outputs that are lists of dictionaries the matrix of their values."""
        graph = self.model.graph
        for node in [node for node in graph.node if node.op_type == "ZipMap"]:
            graph.node.remove(node)
            for output in graph.output:
                if output.name == node.output[0]:
                    kind = self._onnx.TensorProto.FLOAT
                    output.CopyFrom(self._value(node.input[0], kind, [None, None]))

    def use_operators(self, versions: Mapping[str, int]) -> None:
        """Add sets of operators, for nodes that are added to a graph that had no use for them."""
        known = {each.domain for each in self.model.opset_import}
        for domain, version in versions.items():
            if domain not in known:
                self.model.opset_import.append(self._onnx.helper.make_opsetid(domain, version))
        self.model.ir_version = max(self.model.ir_version, 8)

    def use_portable_locale(self) -> None:
        """Give operators that need a locale one that slim images have."""
        for node in self.model.graph.node:
            if node.op_type == "StringNormalizer":
                kept = [each for each in node.attribute if each.name != "locale"]
                del node.attribute[:]
                locale = self._onnx.helper.make_attribute("locale", "C.UTF-8")
                node.attribute.extend([*kept, locale])

    def replace_inputs(self, specs: Mapping[str, TensorSpec], *, as_matrix: bool = False) -> None:
        """Put inputs of these names, dtypes and shapes before those of the graph.

        Args:
            specs: The new inputs in the order of the old ones. One of one axis becomes a column of the old one.
            as_matrix: Whether they are the columns of the only old one.
        """
        graph = self.model.graph
        names = self.input_names()
        old = [each for each in graph.input if each.name in names]
        inner = [f"{_PREFIX}{each.name}" for each in old]
        for each, name in zip(old, inner, strict=True):
            _rename(graph, each.name, name)
        kinds = [each.type.tensor_type.elem_type for each in old]
        if as_matrix:
            kinds = kinds * len(specs)
        nodes: list[Any] = []
        columns = []
        for (name, spec), kind in zip(specs.items(), kinds, strict=True):
            last = name
            if len(spec.shape or ()) == 1:
                last = self._node(nodes, "Unsqueeze", [last, self._constant(np.array([1]))])
            if self._kind(spec) != kind:
                last = self._node(nodes, "Cast", [last], to=kind)
            columns.append(last)
        if as_matrix:
            columns = [self._node(nodes, "Concat", columns, axis=1)]
        for last, name in zip(columns, inner, strict=True):
            nodes.append(self._onnx.helper.make_node("Identity", [last], [name]))
        del graph.input[:]
        graph.input.extend(
            self._value(name, self._kind(spec), spec.shape or []) for name, spec in specs.items()
        )
        body = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *body])

    def replace_outputs(self, outputs: Mapping[str, tuple[str, Any]]) -> None:
        """Keep some outputs, under other names and with the shape of an example.

        Args:
            outputs: The old name and an array like the output, by the new name.
        """
        graph = self.model.graph
        found = {each.name: each for each in graph.output}
        renamed = []
        nodes: list[Any] = []
        for name, (old, like) in outputs.items():
            shape = self._constant(np.array([-1, *like.shape[1:]]))
            inner = self._node(nodes, "Reshape", [old, shape])
            nodes.append(self._onnx.helper.make_node("Identity", [inner], [name]))
            kind = found[old].type.tensor_type.elem_type
            renamed.append(self._value(name, kind, [None, *like.shape[1:]]))
            if name in found or self._is_used(name):
                self._rename_inside(name)
        for node in nodes:
            node.input[:] = [self._renamed.get(each, each) for each in node.input]
        graph.node.extend(nodes)
        del graph.output[:]
        graph.output.extend(renamed)

    # ---- parts

    def _is_used(self, name: str) -> bool:
        return any(name in node.output for node in self.model.graph.node)

    def _rename_inside(self, name: str) -> None:
        """Give the value of a name that is wanted for something else another one."""
        self._renamed[name] = f"{_PREFIX}{name}"
        _rename(self.model.graph, name, self._renamed[name])

    def _new_name(self) -> str:
        self._count += 1
        return f"{_PREFIX}{self._count}"

    def _node(self, nodes: list[Any], kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = self._new_name()
        nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _constant(self, array: Any) -> str:
        name = self._new_name()
        self.model.graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _kind(self, spec: TensorSpec) -> int:
        if spec.dtype == "bytes":
            return int(self._onnx.TensorProto.STRING)
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)))

    def _value(self, name: str, kind: int, shape: Sequence[int | None]) -> Any:
        sizes = [_BATCH if axis == 0 else size for axis, size in enumerate(shape)]
        return self._onnx.helper.make_tensor_value_info(name, kind, sizes)


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a value in the nodes of a graph and of those inside of it."""
    for node in graph.node:
        node.input[:] = [new if each == old else each for each in node.input]
        node.output[:] = [new if each == old else each for each in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, old, new)
