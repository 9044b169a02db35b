"""scikit-learn: estimators and pipelines, converted to ONNX by skl2onnx."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from servable.errors import LoadError, SaveError, ServableError
from servable.loaders._estimators import MATRIX, answers
from servable.loaders._manifest import Label
from servable.loaders._stored_estimators import HARMLESS_TYPES, SKOPS_FILE
from servable.saving._conversion import Conversion, required, version_of
from servable.saving._example import Example, array_of, spec_of
from servable.saving._onnx_graph import MODEL_FILE, OPSETS, OnnxGraph
from servable.saving._opening import OpenVersion
from servable.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

_LIBRARIES = ("onnxruntime", "scikit-learn", "skl2onnx")
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
    converted = Conversion(
        kind="sklearn",
        platform="onnx",
        inputs=inputs,
        expected=expected,
        libraries=_LIBRARIES,
        feature_names=_feature_names(model, example),
        class_labels=class_labels(model),
    )
    try:
        _write(model, specs, expected, directory)
    except SaveError as error:
        return _kept_in_python(model, specs, converted, directory, error)
    return converted


def _kept_in_python(
    model: Any,
    specs: Mapping[str, TensorSpec],
    conversion: Conversion,
    directory: Path,
    reason: SaveError,
) -> Conversion:
    """Write an estimator that has no conversion by skops, for Python workers.

    Raises:
        SaveError: skops is not installed, or cannot write it.
    """
    try:
        skops = required("skops.io", "skops")
        (directory / MODEL_FILE).unlink(missing_ok=True)
        skops.dump(model, directory / SKOPS_FILE)
    except Exception as error:  # code of the estimator and of skops
        raise SaveError(f"{reason.message}; nor can skops write it: {error}") from error
    types = skops.get_untrusted_types(file=directory / SKOPS_FILE)
    unknown = [name for name in types if name not in HARMLESS_TYPES]
    advice = f" It needs `trusted: true`, for {', '.join(unknown)}." if unknown else ""
    warnings.warn(
        f"{reason.message}. It is saved by skops, and runs in a Python worker.{advice}",
        stacklevel=4,
    )
    release = ".".join(str(version_of("scikit-learn")).split(".")[:2])
    outputs = {name: spec_of(array, name) for name, array in conversion.expected.items()}
    return replace(
        conversion,
        platform="skops",
        libraries=("scikit-learn", "skops"),
        requires={"scikit-learn": release},
        signatures={DEFAULT_SIGNATURE: Signature(specs, outputs)},
    )


def _inputs(model: Any, example: Example) -> tuple[Mapping[str, Any], Any]:
    """The arrays that clients send, and what the original gets."""
    name = (example.names or (MATRIX,))[0]
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
    try:
        found = answers(model, given)
    except LoadError as error:
        raise SaveError(error.message) from error
    return {name: array_of(value, f'output "{name}"') for name, value in found.items()}


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
        types = [(MATRIX, _type_of(widest, floats))]
    has_option = "probabilities" in expected and hasattr(model, "classes_")
    options = {id(model): {"zipmap": False}} if has_option else {}
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
