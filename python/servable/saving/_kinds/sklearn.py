"""scikit-learn: estimators and pipelines, converted to ONNX by skl2onnx."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servable.errors import SaveError, ServableError
from servable.loaders._manifest import Label
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example, array_of
from servable.saving._onnx_graph import OPSETS, OnnxGraph
from servable.saving._opening import OpenVersion
from servable.signature import TensorSpec

_log = logging.getLogger(__name__)

_LIBRARIES = ("onnxruntime", "scikit-learn", "skl2onnx")
_MATRIX = "inputs"
_COLUMN = "column"


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Convert to ONNX; floats of 64 bits become 32 inside the graph where operators have no others."""
    required("skl2onnx", "sklearn")
    inputs, given = _inputs(model, example)
    expected = _answers(model, given)
    specs = dict(example.specs(tuple(inputs)))
    inputs = {
        name: array if specs[name].dtype == "bytes" else array.astype(specs[name].dtype)
        for name, array in inputs.items()
    }
    _write(model, specs, expected, directory)
    return Conversion(
        kind="sklearn",
        platform="onnx",
        inputs=inputs,
        expected=expected,
        libraries=_LIBRARIES,
        feature_names=_feature_names(model, example),
        class_labels=class_labels(model),
    )


def _inputs(model: Any, example: Example) -> tuple[Mapping[str, Any], Any]:
    """The arrays that clients send, and what the original gets."""
    name = (example.names or (_MATRIX,))[0]
    if len(example.arrays) == 1 and not example.is_table:
        (array,) = example.arrays
        if array.dtype == object and array.ndim == 1:
            return {name: array}, [each.decode() for each in array]  # texts, for a vectorizer
        if array.dtype == object and array.ndim == 2:
            return {name: array}, np.array(
                [[each.decode() for each in row] for row in array], object
            )
        return {name: example.matrix()}, example.given if example.names is None else array
    if example.names is None:
        raise SaveError(f"example: got {len(example.arrays)} arrays without names, want one matrix")
    columns = example.named(())
    if any(array.ndim != 1 for array in columns.values()):
        raise SaveError("example: want one matrix, or one array of one axis for each feature")
    if example.is_table:
        return columns, example.given
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return columns, np.stack(list(columns.values()), axis=1)
    if not {*names} <= {*columns}:
        raise SaveError(f"example: got {', '.join(columns)}, want the features {', '.join(names)}")
    # Trained with a data frame: it selects columns by their names.
    pandas = required("pandas", "'pandas'")
    ordered = {name: columns[name] for name in names}
    text = {
        name: [each.decode() for each in array] if array.dtype == object else array
        for name, array in ordered.items()
    }
    return ordered, pandas.DataFrame(text)


def _answers(model: Any, given: Any) -> Mapping[str, Any]:
    """The outputs of the original, by the names that clients see.

    Raises:
        SaveError: It has no method that answers a request.
    """
    found: dict[str, Any] = {}
    if hasattr(model, "predict"):
        name = "labels" if hasattr(model, "classes_") or not _is_regressor(model) else "predictions"
        found[name] = model.predict(given)
        if hasattr(model, "predict_proba"):
            found["probabilities"] = model.predict_proba(given)
    elif hasattr(model, "transform"):
        found["values"] = model.transform(given)
    else:
        raise SaveError(f"got a {type(model).__name__}, want one with `predict` or `transform`")
    for name, value in found.items():
        if isinstance(value, list):
            raise SaveError(f"got {len(value)} outputs of `predict_proba`, want one")
        if hasattr(value, "toarray"):
            found[name] = value.toarray()
    return {name: array_of(value, f'output "{name}"') for name, value in found.items()}


def _is_regressor(model: Any) -> bool:
    return bool(required("sklearn.base", "sklearn").is_regressor(model))


def class_labels(model: Any) -> tuple[Label, ...]:
    """The labels of a classifier; none for other models and for those with several outputs."""
    classes = getattr(model, "classes_", None)
    if classes is None or isinstance(classes, list):
        return ()
    return tuple(np.asarray(classes).tolist())


def _feature_names(model: Any, example: Example) -> tuple[str, ...]:
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        return tuple(map(str, names))
    return example.names or () if example.is_table else ()


def _write(
    model: Any, specs: Mapping[str, TensorSpec], expected: Mapping[str, Any], directory: Path
) -> None:
    """Write the first graph that ONNX Runtime takes."""
    reasons = []
    for floats in ("float64", "float32"):
        try:
            graph = _graph(model, specs, expected, floats)
            graph.write(directory)
            OpenVersion(directory, "onnx").close()
        except ServableError as error:
            if floats == "float32" and "float64" not in {spec.dtype for spec in specs.values()}:
                break  # it was the same graph
            reasons.append(error.message)
        else:
            return
    raise SaveError(
        f"{type(model).__name__} cannot be converted to ONNX: {'; and with 32-bit floats: '.join(reasons)}"
    )


def _graph(
    model: Any, specs: Mapping[str, TensorSpec], expected: Mapping[str, Any], floats: str
) -> OnnxGraph:
    skl2onnx = required("skl2onnx", "sklearn")
    is_matrix = all(len(spec.shape or ()) == 2 for spec in specs.values())
    is_text = all(spec.dtype == "bytes" for spec in specs.values())
    selects_columns = not is_matrix and (_selects_columns(model) or (is_text and len(specs) == 1))
    if is_matrix or selects_columns:
        types = [
            (f"{_COLUMN}{n}" if is_matrix else name, _type_of(spec, floats))
            for n, (name, spec) in enumerate(specs.items())
        ]
    else:
        widest = TensorSpec(_common_dtype(specs), [None, len(specs)])
        types = [(_MATRIX, _type_of(widest, floats))]
    options = {id(model): {"zipmap": False}} if "probabilities" in expected else {}
    try:
        converted = skl2onnx.convert_sklearn(
            model,
            initial_types=types,
            target_opset=OPSETS,
            options=options,
            custom_conversion_functions=dict(_corrected_converters()),
        )
    except Exception as error:  # the border to skl2onnx, which raises all kinds
        raise SaveError(f"{type(error).__name__}: {str(error)[:500]}") from error
    graph = OnnxGraph(converted)
    graph.use_portable_locale()
    outputs = graph.output_names()
    graph.replace_inputs(specs, as_matrix=not (is_matrix or selects_columns))
    graph.replace_outputs(
        {name: (old, expected[name]) for name, old in zip(expected, outputs, strict=False)}
    )
    return graph


def _type_of(spec: TensorSpec, floats: str) -> Any:
    """The type of skl2onnx for an input; columns are matrices of one column."""
    types = required("skl2onnx.common.data_types", "sklearn")
    width = (spec.shape or (None, 1))[1] if len(spec.shape or ()) == 2 else 1
    kinds = {
        "bytes": types.StringTensorType,
        "bool": types.BooleanTensorType,
        "float64": types.DoubleTensorType if floats == "float64" else types.FloatTensorType,
    }
    kind = kinds.get(spec.dtype, types.FloatTensorType)
    if spec.dtype.startswith(("int", "uint")):
        kind = types.Int64TensorType if floats == "float64" else types.FloatTensorType
    return kind([None, width])


def _common_dtype(specs: Mapping[str, TensorSpec]) -> str:
    """The dtype of a matrix of these columns."""
    text = [name for name, spec in specs.items() if spec.dtype == "bytes"]
    if text:
        raise SaveError(f"got text in the columns {', '.join(text)}, want numbers")
    return np.result_type(*(spec.dtype for spec in specs.values())).name


def _selects_columns(model: Any) -> bool:
    """Whether an estimator contains a ColumnTransformer, which selects columns by their names."""
    transformer = required("sklearn.compose", "sklearn").ColumnTransformer
    return any(isinstance(each, transformer) for each in _parts(model))


def _parts(model: Any) -> Iterator[Any]:
    yield model
    for _, step in getattr(model, "steps", None) or ():
        yield from _parts(step)
    for name in ("estimator", "best_estimator_"):
        inner = getattr(model, name, None)
        if inner is not None:
            yield from _parts(inner)


# ---- a defect of skl2onnx 1.20 with onnx 1.20 and later


def _corrected_converters() -> Iterator[tuple[type, Any]]:
    """Converters of histogram-based trees, whose truth values onnx no longer takes for integers."""
    ensemble = required("sklearn.ensemble", "sklearn")
    names = required("skl2onnx._supported_operators", "sklearn").sklearn_operator_name_map
    get_converter = required("skl2onnx.common._registration", "sklearn").get_converter
    for estimator in (
        ensemble.HistGradientBoostingClassifier,
        ensemble.HistGradientBoostingRegressor,
    ):
        converter = get_converter(names[estimator])

        def corrected(
            scope: Any, operator: Any, container: Any, converter: Any = converter
        ) -> None:
            converter(scope, operator, _IntegerContainer(container))

        yield estimator, corrected


class _IntegerContainer:
    """A container of nodes that turns lists of truth values into integers."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *arguments: Any, **attributes: Any) -> None:
        for name, value in attributes.items():
            if isinstance(value, list) and any(
                isinstance(each, (bool, np.bool_)) for each in value
            ):
                attributes[name] = [int(each) for each in value]
        self._container.add_node(*arguments, **attributes)
