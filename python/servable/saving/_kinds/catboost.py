"""CatBoost: exported to ONNX by the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._boosting import rows_of
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example, array_of
from servable.saving._kinds.sklearn import class_labels
from servable.saving._onnx_graph import OnnxGraph
from servable.signature import TensorSpec


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Export to ONNX. Categorical and text features have no ONNX operators, so they are refused."""
    catboost = required("catboost", "'catboost'")
    onnx = required("onnx", "'onnx'")
    if not isinstance(model, catboost.CatBoost):
        raise SaveError(f"got a {type(model).__name__}, want a model of CatBoost")
    names = tuple(map(str, model.feature_names_ or ()))
    has_names = names != tuple(map(str, range(len(names))))
    rows = rows_of(example, names if has_names else None, "float32")
    # Bytes of the graph come from a file only.
    file = directory / "exported.onnx"
    try:
        model.save_model(str(file), format="onnx")
    except catboost.CatBoostError as error:
        raise SaveError(f"CatBoost cannot export the model to ONNX: {error}") from error
    graph = OnnxGraph(onnx.load(str(file)))
    file.unlink()
    expected = {name: array_of(value, name) for name, value in _answers(model, rows.given).items()}
    graph.remove_zip_maps()
    outputs = graph.output_names()
    is_table = len(rows.inputs) > 1 or rows.signature_name != "serving_default"
    graph.use_operators({"": 18, "ai.onnx.ml": 3})
    graph.replace_inputs(
        {
            name: TensorSpec("float32", [None, *array.shape[1:]])
            for name, array in rows.inputs.items()
        },
        as_matrix=is_table,
    )
    graph.replace_outputs(
        {name: (old, expected[name]) for name, old in zip(expected, outputs, strict=False)}
    )
    graph.write(directory)
    return Conversion(
        kind="catboost",
        platform="onnx",
        inputs=rows.inputs,
        expected=expected,
        libraries=("catboost", "onnx", "onnxruntime"),
        feature_names=names if has_names else (),
        class_labels=class_labels(model),
    )


def _answers(model: Any, given: Any) -> dict[str, Any]:
    predicted = model.predict(given)
    if not hasattr(model, "predict_proba"):
        return {"predictions": predicted}
    labels = predicted[:, 0] if predicted.ndim == 2 else predicted
    return {"labels": labels, "probabilities": model.predict_proba(given)}
