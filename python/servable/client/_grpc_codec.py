"""Encoding of calls for TensorFlow Serving's gRPC methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from servable.client import _tensors as tensors
from servable.client import _wire as wire
from servable.client._arrays import Array
from servable.client._exchange import Examples, Exchange, Request, Target
from servable.client._features import feature
from servable.client._messages import message_class, pool
from servable.client._results import Class, Classes, InferenceTask, Prediction, State, VersionStatus
from servable.client._signatures import ModelMetadata, ModelSignature, TensorInfo, sparse_parts
from servable.errors import BackendError, Code, InvalidInputError, from_code
from servable.signature import part_names

Result = TypeVar("Result")

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
_METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}

# Fields of PredictRequest, of PredictResponse, and of the entries of their maps.
_REQUEST_SPEC, _REQUEST_INPUTS, _REQUEST_FILTER = 1, 2, 3
_RESPONSE_OUTPUTS, _RESPONSE_SPEC = 1, 2
_KEY, _VALUE = 1, 2


class GrpcCodec:
    """Encodes calls as protobuf messages; see `servable.client._exchange.Codec`."""

    needs_signature = False

    def predict(
        self,
        target: Target,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        signature: ModelSignature | None,
    ) -> Exchange[Prediction]:
        """Predict, with tensors as `tensor_content`."""
        del signature
        pieces: list[wire.Piece] = [
            wire.bytes_field(_REQUEST_SPEC, _model_spec(target).SerializeToString())
        ]
        for name, array in inputs.items():
            tensor = wire.message_field(_VALUE, tensors.encode(array))
            entry = [wire.bytes_field(_KEY, name.encode()), *tensor]
            pieces += wire.message_field(_REQUEST_INPUTS, entry)
        pieces += [wire.bytes_field(_REQUEST_FILTER, name.encode()) for name in outputs]
        request = Request(f"{_PREDICTION}Predict", b"".join(pieces))
        return Exchange(request, lambda answer: _prediction(target, answer))

    def classify(
        self, target: Target, examples: Examples, context: Mapping[str, object] | None
    ) -> Exchange[Classes]:
        """Classify."""
        message = _new("ClassificationRequest", model_spec=_model_spec(target))
        _fill_input(message.input, examples, context)
        return _exchange(
            f"{_PREDICTION}Classify",
            message,
            "ClassificationResponse",
            lambda answer: _classes(answer.result),
        )

    def regress(
        self, target: Target, examples: Examples, context: Mapping[str, object] | None
    ) -> Exchange[Array]:
        """Regress."""
        message = _new("RegressionRequest", model_spec=_model_spec(target))
        _fill_input(message.input, examples, context)
        return _exchange(
            f"{_PREDICTION}Regress",
            message,
            "RegressionResponse",
            lambda answer: _values(answer.result),
        )

    def multi_inference(
        self,
        target: Target,
        examples: Examples,
        context: Mapping[str, object] | None,
        tasks: Sequence[InferenceTask],
    ) -> Exchange[list[Classes | Array]]:
        """MultiInference."""
        message = _new("MultiInferenceRequest")
        _fill_input(message.input, examples, context)
        for task in tasks:
            method, signature = task
            if method not in _METHODS:
                raise InvalidInputError(f"task: got method {method!r}, want classify or regress")
            spec = _model_spec(target)
            spec.signature_name = signature
            message.tasks.add(model_spec=spec, method_name=_METHODS[method])

        def read(answer: Any) -> list[Classes | Array]:
            return [
                _classes(result.classification_result)
                if result.WhichOneof("result") == "classification_result"
                else _values(result.regression_result)
                for result in answer.results
            ]

        path = f"{_PREDICTION}MultiInference"
        return _exchange(path, message, "MultiInferenceResponse", read)

    def metadata(self, target: Target) -> Exchange[ModelMetadata]:
        """GetModelMetadata."""
        spec = _model_spec(target)
        spec.signature_name = ""
        message = _new("GetModelMetadataRequest", model_spec=spec, metadata_field=["signature_def"])
        path = f"{_PREDICTION}GetModelMetadata"
        return _exchange(path, message, "GetModelMetadataResponse", _metadata)

    def status(self, target: Target) -> Exchange[list[VersionStatus]]:
        """GetModelStatus."""
        message = _new("GetModelStatusRequest", model_spec=_model_spec(target))

        def read(answer: Any) -> list[VersionStatus]:
            states = message_class("tensorflow.serving.ModelVersionStatus").State
            return [
                VersionStatus(
                    found.version,
                    State(states.Name(found.state)),
                    Code(found.status.error_code),
                    found.status.error_message,
                )
                for found in answer.model_version_status
            ]

        return _exchange(f"{_MODEL}GetModelStatus", message, "GetModelStatusResponse", read)

    def reload_config(self, config: str) -> Exchange[None]:
        """HandleReloadConfigRequest."""
        from google.protobuf import text_format

        message = _new("ReloadConfigRequest")
        try:
            text_format.Parse(config, message.config, descriptor_pool=pool())
        except text_format.ParseError as error:
            raise InvalidInputError(f"configuration: {error}") from error

        def read(answer: Any) -> None:
            if answer.status.error_code:
                raise from_code(answer.status.error_code, answer.status.error_message)

        path = f"{_MODEL}HandleReloadConfigRequest"
        return _exchange(path, message, "ReloadConfigResponse", read, is_repeatable=False)

    def ping(self) -> Request:
        """The status of a model without a name."""
        return Request(f"{_MODEL}GetModelStatus", b"")


def _new(name: str, /, **fields: Any) -> Any:
    return message_class(f"tensorflow.serving.{name}")(**fields)


def _exchange(
    path: str,
    message: Any,
    answer_name: str,
    read: Callable[[Any], Result],
    *,
    is_repeatable: bool = True,
) -> Exchange[Result]:
    request = Request(path, message.SerializeToString(), is_repeatable)
    return Exchange(request, lambda answer: read(_parse(answer_name, answer)))


def _parse(name: str, data: bytes | memoryview) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message_class(f"tensorflow.serving.{name}").FromString(bytes(data))
    except DecodeError as error:
        raise BackendError(f"the answer is no {name}: {error}") from error


def _model_spec(target: Target) -> Any:
    spec = _new("ModelSpec", name=target.model, signature_name=target.signature)
    if target.version is not None:
        spec.version.value = target.version
    if target.label is not None:
        spec.version_label = target.label
    return spec


def _prediction(target: Target, answer: bytes) -> Prediction:
    outputs: dict[str, Array] = {}
    version = None
    for field, value in wire.fields(memoryview(answer)):
        if isinstance(value, int):
            continue
        if field == _RESPONSE_OUTPUTS:
            entry = dict(wire.fields(value))
            name, tensor = entry.get(_KEY, b""), entry.get(_VALUE, memoryview(b""))
            if isinstance(name, int) or isinstance(tensor, int):
                raise BackendError("the answer is no PredictResponse")
            key = bytes(name).decode()
            outputs[key] = tensors.decode(f'output "{key}" of {target}', tensor)
        elif field == _RESPONSE_SPEC:
            version = _parse("ModelSpec", value).version.value
    return Prediction(target.model, version, outputs)


def _fill_input(message: Any, examples: Examples, context: Mapping[str, object] | None) -> None:
    if context is None:
        added = message.example_list.examples
    else:
        added = message.example_list_with_context.examples
        _fill_example(message.example_list_with_context.context, context)
    for example in examples:
        _fill_example(added.add(), example)


def _fill_example(message: Any, example: object) -> None:
    if not isinstance(example, Mapping):
        kind = type(example).__name__
        raise InvalidInputError(f"example: got {kind}, want a dict of values by feature name")
    for name, value in example.items():
        kind, values = feature(name, value)
        getattr(message.features.feature[name], kind).value.extend(values)


def _classes(result: Any) -> Classes:
    return [
        [Class(found.label.decode(errors="replace"), found.score) for found in example.classes]
        for example in result.classifications
    ]


def _values(result: Any) -> Array:
    return np.array([found.value for found in result.regressions], np.float32)


def _metadata(answer: Any) -> ModelMetadata:
    packed = answer.metadata["signature_def"].value
    signatures = {
        name: ModelSignature(
            _tensor_infos(signature.inputs),
            _tensor_infos(signature.outputs),
            signature.method_name,
            frozenset(signature.defaults),
        )
        for name, signature in _parse("SignatureDefMap", packed).signature_def.items()
    }
    return ModelMetadata(answer.model_spec.name, answer.model_spec.version.value, signatures)


def _tensor_infos(infos: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {name: part for alias, info in infos.items() for name, part in _parts(alias, info)}


def _parts(alias: str, info: Any) -> Iterator[tuple[str, TensorInfo]]:
    """A tensor by its name, or the tensors of a sparse or composite value."""
    encoding = info.WhichOneof("encoding")
    if encoding == "coo_sparse":
        rank = None if info.tensor_shape.unknown_rank else len(info.tensor_shape.dim)
        yield from sparse_parts(alias, _tensor_info(info).dtype, rank)
    elif encoding == "composite_tensor":
        composite = info.composite_tensor
        classes = pool().FindEnumTypeByName("tensorflow.TypeSpecProto.TypeSpecClass")
        found = classes.values_by_number.get(composite.type_spec.type_spec_class)
        names = part_names(found.name if found else "", len(composite.components))
        for part, component in zip(names, composite.components, strict=True):
            yield from _parts(f"{alias}.{part}", component)
    else:
        yield alias, _tensor_info(info)


def _tensor_info(info: Any) -> TensorInfo:
    name = tensors.NAMES.get(info.dtype)
    if name is None:
        values = pool().FindEnumTypeByName("tensorflow.DataType").values_by_number
        name = values[info.dtype].name if info.dtype in values else str(info.dtype)
    if info.tensor_shape.unknown_rank or not info.HasField("tensor_shape"):
        return TensorInfo(name, None)
    sizes = (dim.size for dim in info.tensor_shape.dim)
    return TensorInfo(name, tuple(None if size < 0 else size for size in sizes))
