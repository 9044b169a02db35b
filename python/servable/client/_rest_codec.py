"""Encoding of calls for TensorFlow Serving's REST API."""

from __future__ import annotations

import base64
import binascii
import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from servable.client._arrays import Array, numpy_dtype, object_array
from servable.client._exchange import Examples, Exchange, Request, Target
from servable.client._features import feature
from servable.client._results import Class, Classes, InferenceTask, Prediction, State, VersionStatus
from servable.client._signatures import ModelMetadata, ModelSignature, TensorInfo, sparse_parts
from servable.errors import BackendError, Code, InvalidInputError, UnimplementedError
from servable.signature import DATA_TYPES, part_names

_NOT_IN_JSON = frozenset({"float16", "bfloat16", "uint16", "complex64", "complex128"})
_DATA_TYPE_NAMES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    "DT_STRING": "bytes",
    **{f"DT_{name.upper()}": name for name in DATA_TYPES if name not in ("float32", "bytes")},
}


class RestCodec:
    """Encodes calls as JSON documents; see `servable.client._exchange.Codec`.

    JSON does not carry dtypes, so decoding an answer requires the signature.
    """

    needs_signature = True

    def predict(
        self,
        target: Target,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        signature: ModelSignature | None,
    ) -> Exchange[Prediction]:
        """POST `:predict`, in columnar form; outputs that were not requested are dropped here."""
        assert signature is not None
        values = {
            name: _json_values(f'input "{name}" of {target}', array)
            for name, array in inputs.items()
        }
        document: dict[str, Any] = {"signature_name": target.signature} if target.signature else {}
        # An only input is sent without its name; with it, `{"b64": …}` would be decoded as bytes.
        document["inputs"] = next(iter(values.values())) if len(values) == 1 else values

        def read(answer: bytes) -> Prediction:
            found = _read_outputs(target, _member(answer, "outputs"), signature)
            wanted = {name: found[name] for name in outputs} if outputs else found
            return Prediction(target.model, target.version, wanted)

        return Exchange(_post(target, "predict", document), read)

    def classify(
        self, target: Target, examples: Examples, context: Mapping[str, object] | None
    ) -> Exchange[Classes]:
        """POST `:classify`."""

        def read(answer: bytes) -> Classes:
            try:
                return [
                    [Class(_text(label), float(score)) for label, score in example]
                    for example in _member(answer, "results")
                ]
            except (TypeError, ValueError) as error:
                raise BackendError(f"the answer of {target} holds no classes") from error

        return Exchange(_post(target, "classify", _examples(target, examples, context)), read)

    def regress(
        self, target: Target, examples: Examples, context: Mapping[str, object] | None
    ) -> Exchange[Array]:
        """POST `:regress`."""

        def read(answer: bytes) -> Array:
            try:
                return np.array(_member(answer, "results"), np.float32)
            except (TypeError, ValueError) as error:
                raise BackendError(f"the answer of {target} holds no values") from error

        return Exchange(_post(target, "regress", _examples(target, examples, context)), read)

    def multi_inference(
        self,
        target: Target,
        examples: Examples,
        context: Mapping[str, object] | None,
        tasks: Sequence[InferenceTask],
    ) -> Exchange[list[Classes | Array]]:
        """REST has no such method."""
        raise UnimplementedError("TensorFlow Serving has no multi_inference over REST; use grpc://")

    def metadata(self, target: Target) -> Exchange[ModelMetadata]:
        """GET `/metadata`."""

        def read(answer: bytes) -> ModelMetadata:
            try:
                spec = _member(answer, "model_spec")
                found = _member(answer, "metadata")["signature_def"]["signature_def"]
                signatures = {name: _signature(signature) for name, signature in found.items()}
                return ModelMetadata(spec["name"], int(spec["version"]), signatures)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise BackendError(f"the answer of {target} is no metadata") from error

        return Exchange(Request(f"{_path(target)}/metadata"), read)

    def status(self, target: Target) -> Exchange[list[VersionStatus]]:
        """GET the model."""

        def read(answer: bytes) -> list[VersionStatus]:
            try:
                return [
                    VersionStatus(
                        int(found["version"]),
                        State(found["state"]),
                        Code[found["status"]["error_code"]],
                        found["status"]["error_message"],
                    )
                    for found in _member(answer, "model_version_status")
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise BackendError(f"the answer of {target} is no status") from error

        return Exchange(Request(_path(target)), read)

    def reload_config(self, config: str) -> Exchange[None]:
        """REST has no such method."""
        raise UnimplementedError("TensorFlow Serving has no reload over REST; use grpc://")

    def ping(self) -> Request:
        """The status of a model without a name."""
        return Request("/v1/models")


def _path(target: Target) -> str:
    path = f"/v1/models/{urllib.parse.quote(target.model, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    if target.label is not None:
        return f"{path}/labels/{urllib.parse.quote(target.label, safe='')}"
    return path


def _post(target: Target, verb: str, document: Mapping[str, Any]) -> Request:
    body = json.dumps(document, separators=(",", ":")).encode()
    return Request(f"{_path(target)}:{verb}", body)


def _json_values(what: str, array: Array) -> Any:
    if array.dtype.name in _NOT_IN_JSON:
        raise UnimplementedError(f"{what}: JSON cannot carry {array.dtype.name}; use grpc://")
    if array.size == 0 and 0 in array.shape[:-1]:
        raise UnimplementedError(
            f"{what}: JSON cannot carry shape {list(array.shape)}; use grpc://"
        )
    if array.dtype == object:
        encoded = [{"b64": base64.b64encode(e).decode()} for e in array.reshape(-1).tolist()]
        return object_array(encoded, array.shape).tolist()
    return array.tolist()


def _examples(
    target: Target, examples: Examples, context: Mapping[str, object] | None
) -> dict[str, Any]:
    document: dict[str, Any] = {"signature_name": target.signature} if target.signature else {}
    if context is not None:
        document["context"] = _example(context)
    document["examples"] = [_example(example) for example in examples]
    return document


def _example(example: object) -> dict[str, Any]:
    if not isinstance(example, Mapping):
        kind = type(example).__name__
        raise InvalidInputError(f"example: got {kind}, want a dict of values by feature name")
    members = {}
    for name, value in example.items():
        kind, values = feature(name, value)
        members[name] = (
            [{"b64": base64.b64encode(v).decode()} for v in values if isinstance(v, bytes)]
            if kind == "bytes_list"
            else values
        )
    return members


def _member(answer: bytes, name: str) -> Any:
    try:
        # Strings may hold bytes that are no UTF-8; `_text` and `_bytes` recover them.
        return json.loads(answer.decode(errors="surrogateescape"))[name]
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f'the answer is no document with "{name}": {answer[:200]!r}') from error


def _text(value: str) -> str:
    return value.encode(errors="surrogateescape").decode(errors="replace")


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    encoded: bytes = value.encode(errors="surrogateescape")
    return encoded


def _read_outputs(target: Target, found: Any, signature: ModelSignature) -> dict[str, Array]:
    """The outputs by name; the answer has no name for an only output."""
    if len(signature.outputs) == 1:
        found = dict.fromkeys(signature.outputs, found)
    if not isinstance(found, dict) or set(found) != set(signature.outputs):
        wanted = ", ".join(sorted(signature.outputs))
        raise BackendError(f"the answer of {target} does not hold the outputs {wanted}")
    return {
        name: _read_array(f'output "{name}" of {target}', found[name], info)
        for name, info in signature.outputs.items()
    }


def _read_array(what: str, value: Any, info: TensorInfo) -> Array:
    try:
        if info.dtype == "bytes":
            shape = _list_shape(value)
            flat = np.array(value, object).reshape(-1).tolist() if shape else [value]
            array = object_array([_bytes(element) for element in flat], shape)
        else:
            with np.errstate(over="ignore"):
                array = np.array(value, numpy_dtype(info.dtype))
        sizes = info.shape or ()
        if array.size == 0 and array.ndim < len(sizes) and None not in sizes[array.ndim :]:
            # JSON represents every empty matrix as `[]`.
            array = array.reshape(array.shape + tuple(size or 0 for size in sizes[array.ndim :]))
        return array
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        binascii.Error,
    ) as error:
        raise BackendError(f"{what}: the answer holds no {info.dtype}: {error}") from error


def _list_shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _signature(found: Mapping[str, Any]) -> ModelSignature:
    return ModelSignature(
        _tensor_infos(found["inputs"]),
        _tensor_infos(found["outputs"]),
        found.get("method_name", ""),
        frozenset(found.get("defaults", ())),
    )


def _tensor_infos(found: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {name: part for alias, info in found.items() for name, part in _parts(alias, info)}


def _parts(alias: str, found: Mapping[str, Any]) -> Iterator[tuple[str, TensorInfo]]:
    """A tensor by its name, or the tensors of a sparse or composite value."""
    if "coo_sparse" in found:
        whole = _tensor_info(found)
        yield from sparse_parts(
            alias, whole.dtype, None if whole.shape is None else len(whole.shape)
        )
    elif "composite_tensor" in found:
        composite = found["composite_tensor"]
        type_spec = composite.get("type_spec") or {}
        components = composite["components"]
        names = part_names(type_spec.get("type_spec_class", ""), len(components))
        for part, component in zip(names, components, strict=True):
            yield from _parts(f"{alias}.{part}", component)
    else:
        yield alias, _tensor_info(found)


def _tensor_info(found: Mapping[str, Any]) -> TensorInfo:
    dtype = _DATA_TYPE_NAMES.get(found["dtype"], found["dtype"])
    shape = found.get("tensor_shape")
    if shape is None or shape.get("unknown_rank"):
        return TensorInfo(dtype, None)
    sizes = (int(dim["size"]) for dim in shape["dim"])
    return TensorInfo(dtype, tuple(None if size < 0 else size for size in sizes))
