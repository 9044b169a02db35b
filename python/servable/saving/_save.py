"""`servable.save`: a version directory from a live model, with the proof that both answer alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from servable import __version__
from servable.errors import SaveError, ServableError
from servable.loaders._description import SignatureDescription, TensorDescription
from servable.loaders._manifest import MANIFEST_FILE, Manifest, digests_of
from servable.saving._conversion import Conversion, converter_of, version_of
from servable.saving._example import Example
from servable.saving._opening import OpenVersion
from servable.saving._proof import largest_differences
from servable.saving._tensors import small_parts, to_json
from servable.saving._writing import writing
from servable.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

DEFAULT_TOLERANCE = 1e-4
"""For 32-bit floats: conversions change the order of additions."""


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    example: Any,
    signature: Signature | None = None,
    version: int | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Path:
    """Write a model as a version that servers load, and prove on an example that it answers as the original does.

    Models of scikit-learn, PyTorch and CatBoost become ONNX. Those of Keras, JAX and TensorFlow become SavedModels.
    Those of XGBoost and LightGBM keep the format of their library, and so do estimators and modules without a
    conversion to ONNX. Tensors get the dtypes and shapes of the example, with a free batch axis. The columns of a data
    frame become inputs of their names.

    The version appears as a whole or not at all. Beside the model, `servable.json` has the signature, the versions of
    libraries, class labels, feature names, a part of the example, and digests of all files.

    Args:
        model: A fitted estimator or pipeline of scikit-learn; a model of XGBoost, LightGBM, CatBoost, Keras or PyTorch;
            a program of `torch.export` or TorchScript; a `jax.jit` function; a `tf.Module` or `tf.function`; an ONNX
            `ModelProto`; the bytes of a TFLite model; a Python function of arrays.
        path: The base path of the model, below which the version is written. It is made if it does not exist.
        example: Inputs as the model takes them: an array, a tuple of arrays, arrays by name, or a data frame. A few
            dozen representative rows make a good proof.
        signature: The inputs and outputs that the version must have. Without it, the example decides.
        version: The version number; by default the one after the highest.
        tolerance: How far a float may differ from that of the original. For values larger than 1, this part of them.

    Returns:
        The version directory.

    Raises:
        SaveError: The model cannot be converted, a package is missing, the version exists, or the outputs differ. The
            message shows the rows that do. Nothing is written then.
        Exception: Raised by the model for the example.
    """
    if not tolerance >= 0:
        raise SaveError(f"tolerance: got {tolerance}, want 0 or more")
    convert = converter_of(model)
    read = Example.of(example, signature)
    with writing(Path(path), version) as writer:
        conversion = convert(model, read, writer.path)
        manifest = _first_manifest(conversion, writer.path)
        _write(manifest, writer.path)  # platforms take labels and names from it
        manifest = _prove(writer.path, conversion, manifest, signature, tolerance)
        _write(manifest, writer.path)
        return writer.publish()


def _write(manifest: Manifest, directory: Path) -> None:
    (directory / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def _first_manifest(conversion: Conversion, directory: Path) -> Manifest:
    """What is known before the version was opened."""
    versions = {name: version_of(name) for name in conversion.libraries}
    return Manifest(
        kind=conversion.kind,
        platform=conversion.platform,
        signatures=conversion.signatures,
        libraries={
            "servable": __version__,
            **{name: found for name, found in versions.items() if found},
        },
        requires=conversion.requires,
        feature_names=conversion.feature_names,
        class_labels=conversion.class_labels,
        files=digests_of(directory),
    )


def _prove(
    directory: Path,
    conversion: Conversion,
    manifest: Manifest,
    signature: Signature | None,
    tolerance: float,
) -> Manifest:
    """Run the written model on the example, as a server would, and compare."""
    try:
        # What is in memory has run its code already.
        opened = OpenVersion(directory, conversion.platform, is_trusted=True)
    except (ServableError, ImportError) as error:
        raise SaveError(
            f"the {conversion.kind} model was converted, but cannot be loaded: {error}"
        ) from error
    try:
        signatures = {name: _signature(each) for name, each in opened.signatures.items()}
        if signature is not None:
            _require_signature(signatures[DEFAULT_SIGNATURE], signature)
        try:
            got = opened.model(conversion.inputs, conversion.signature_name)
        except ServableError as error:
            raise SaveError(
                f"the {conversion.kind} model was converted, but fails for the example: {error.message}"
            ) from error
        try:
            differences = largest_differences(conversion.expected, got, tolerance)
        except SaveError as error:
            raise SaveError(
                f"the converted {conversion.kind} model differs from the original: {error.message}"
            ) from error
        example = _kept_example(opened, conversion, tolerance)
    finally:
        opened.close()
    return replace(
        manifest,
        # Platforms that read these from the manifest need the order of the inputs.
        signatures=conversion.signatures or signatures,
        example=example,
        tolerance=tolerance,
        largest_difference=differences,
    )


def _kept_example(
    opened: OpenVersion, conversion: Conversion, tolerance: float
) -> Mapping[str, Any] | None:
    """The part of the example for `servable.json`: the smallest that gets the same answers alone."""
    name = conversion.signature_name
    for inputs, outputs in small_parts(conversion.inputs, conversion.expected):
        try:
            largest_differences(outputs, opened.model(inputs, name), tolerance)
        except ServableError:
            continue  # the rows of the model depend on each other
        return {"signature_name": name, "inputs": to_json(inputs), "outputs": to_json(outputs)}
    return None


def _signature(description: SignatureDescription) -> Signature:
    return Signature(_specs(description.inputs), _specs(description.outputs))


def _specs(tensors: Mapping[str, TensorDescription]) -> Mapping[str, TensorSpec]:
    return {name: TensorSpec(each.dtype, each.shape) for name, each in tensors.items()}


def _require_signature(found: Signature, wanted: Signature) -> None:
    for part in ("inputs", "outputs"):
        got, want = _shown(getattr(found, part)), _shown(getattr(wanted, part))
        if got != want:
            raise SaveError(f"signature: the {part} are {got}, want {want}")


def _shown(tensors: Mapping[str, TensorSpec]) -> str:
    descriptions = {
        n: TensorDescription(s.dtype, None if s.shape is None else tuple(s.shape))
        for n, s in tensors.items()
    }
    return ", ".join(f"{name}: {each}" for name, each in sorted(descriptions.items()))
