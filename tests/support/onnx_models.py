"""ONNX models of the tests: graphs made by hand, and what scikit-learn trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = 21
IR_VERSION = 10

Shape = Sequence[int | str | None]


def write_version(base_path: Path, model: onnx.ModelProto, version: int = 1) -> Path:
    """Add a version by a rename, so that it is served at once."""
    aside = base_path / f"writing-{version}"
    aside.mkdir(parents=True)
    onnx.save(model, aside / "model.onnx")
    return aside.rename(base_path / str(version))


def value(name: str, element_type: int, shape: Shape | None) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, element_type, shape)


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Mapping[str, np.ndarray[Any, Any]] | None = None,
    opsets: Mapping[str, int] | None = None,
    ir_version: int = IR_VERSION,
) -> onnx.ModelProto:
    """A model of these nodes."""
    tensors = [
        onnx.numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()
    ]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    imports = [helper.make_opsetid(*entry) for entry in (opsets or {"": OPSET}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def scaled(factor: float, *, width: int = 2) -> onnx.ModelProto:
    """Multiplies `x` by a number: `y = factor * x`, float32 of `[N, width]`."""
    return graph_model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [value("x", TensorProto.FLOAT, ["N", width])],
        [value("y", TensorProto.FLOAT, ["N", width])],
        {"factor": np.array(factor, np.float32)},
    )


def copies(element_types: Mapping[str, int]) -> onnx.ModelProto:
    """Returns each input `NAME` of `[N, 2]` as `NAME_out`; rows are concatenated with nothing, which copies them."""
    nodes, inputs, outputs = [], [], []
    for name, element_type in element_types.items():
        nodes.append(helper.make_node("Concat", [name], [f"{name}_out"], axis=0))
        inputs.append(value(name, element_type, ["N", 2]))
        outputs.append(value(f"{name}_out", element_type, ["N", 2]))
    return graph_model(nodes, inputs, outputs)


def endless() -> onnx.ModelProto:
    """Adds 1 to `x` as many times as `n` says."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["before", "one"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, None),
        ],
        [value("goes_on", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    return graph_model(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        [value("n", TensorProto.INT64, []), value("x", TensorProto.FLOAT, ["N"])],
        [value("y", TensorProto.FLOAT, ["N"])],
    )


def converted(
    pipeline: Any, example: Any, *, initial_types: Any = None, **options: Any
) -> onnx.ModelProto:
    """The conversion of a fitted pipeline by skl2onnx."""
    from skl2onnx import to_onnx

    return to_onnx(
        pipeline,
        example,
        initial_types=initial_types,
        target_opset={"": OPSET, "ai.onnx.ml": 3},
        options=options or None,
    )


def iris_classifier(label: Callable[[int], Any] = int) -> tuple[Any, Any]:
    """A classifier of irises and its training rows; `label` makes the label of a class."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, classes = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    labels = np.array([label(each) for each in classes])
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), rows


def diabetes_regressor() -> tuple[Any, Any]:
    """A regressor on the first three columns of the diabetes data, and its training rows."""
    from sklearn.datasets import load_diabetes
    from sklearn.ensemble import GradientBoostingRegressor

    rows, values = load_diabetes(return_X_y=True)
    rows = rows[:, :3].astype(np.float32)
    return GradientBoostingRegressor(n_estimators=10).fit(rows, values), rows


def city_model() -> tuple[Any, onnx.ModelProto]:
    """A classifier of a text, with its labels `cold` and `warm`, and its conversion."""
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    cities = np.array([["Oslo"], ["Rome"], ["Oslo"], ["Cairo"]], object)
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    pipeline.fit(cities, ["cold", "warm", "cold", "warm"])
    return pipeline, converted(
        pipeline, None, zipmap=False, initial_types=[("city", StringTensorType([None, 1]))]
    )


def large(width: int = 256, layers: int = 8) -> onnx.ModelProto:
    """A network of several megabytes: `y` of `x`, both float32 of `[N, width]`."""
    random = np.random.default_rng(0)
    nodes, weights, before = [], {}, "x"
    for layer in range(layers):
        after = "y" if layer == layers - 1 else f"h{layer}"
        weights[f"w{layer}"] = random.standard_normal((width, width)).astype(np.float32) / width
        nodes += [
            helper.make_node("MatMul", [before, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], [after]),
        ]
        before = after
    sizes = ["N", width]
    return graph_model(
        nodes,
        [value("x", TensorProto.FLOAT, sizes)],
        [value("y", TensorProto.FLOAT, sizes)],
        weights,
    )
