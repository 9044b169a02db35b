"""Names and kinds of the example features that a graph parses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_FLOAT, _STRING = 1, 7
"""The numbers in `tensorflow.DataType` of the feature kinds other than int64."""

_VALUES: Mapping[int, Any] = {_FLOAT: 1.0, _STRING: "text"}


def example_features(graph: Any) -> Mapping[str, Any]:
    """An example for the parsing operations of a graph, by feature.

    Args:
        graph: A `servable.GraphView`.

    Returns:
        A value for each feature; empty if the graph parses no examples.
    """
    features: dict[str, Any] = {}
    for nodes in [graph.node, *(function.node_def for function in graph.library.function)]:
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op == "ParseExample":
                features.update(_first_form(node, by_name))
            elif node.op == "ParseExampleV2":
                features.update(_second_form(node, by_name))
    return features


def _first_form(node: Any, by_name: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Inputs: examples, names, a key for each sparse feature, a key for each dense one, defaults."""
    sparse, dense = node.attr["Nsparse"].i, node.attr["Ndense"].i
    keys = [_strings(name, by_name) for name in node.input[2 : 2 + sparse + dense]]
    names = [key for found in keys for key in found]
    if len(names) == sparse + dense:
        yield from _valued(node, names[:sparse], names[sparse:])


def _second_form(node: Any, by_name: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Inputs: examples, names, keys of the sparse, of the dense and of the ragged ones, defaults."""
    if len(node.input) >= 5:
        sparse, dense, ragged = (_strings(name, by_name) for name in node.input[2:5])
        yield from _valued(node, sparse, dense)
        types = node.attr["ragged_value_types"].list.type
        for key, data_type in zip(ragged, types, strict=False):
            yield key, [_value(data_type)]


def _valued(node: Any, sparse: Sequence[str], dense: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for key, data_type in zip(sparse, node.attr["sparse_types"].list.type, strict=False):
        yield key, _value(data_type)
    types, shapes = node.attr["Tdense"].list.type, node.attr["dense_shapes"].list.shape
    for key, data_type, shape in zip(dense, types, shapes, strict=False):
        elements = math.prod(max(dim.size, 1) for dim in shape.dim)
        value = _value(data_type)
        yield key, value if elements == 1 else [value] * elements


def _value(data_type: int) -> Any:
    return _VALUES.get(data_type, 1)


def _strings(name: str, by_name: Mapping[str, Any]) -> Sequence[str]:
    """The strings of a constant; `name` may have an output after it."""
    node = by_name.get(name.partition(":")[0].lstrip("^"))
    if node is None or node.op != "Const":
        return []
    return [value.decode(errors="replace") for value in node.attr["value"].tensor.string_val]
