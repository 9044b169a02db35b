"""Checks the batching of a version: its parameters, and signatures that cannot be batched."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping

from servable._server.commands import config_kinds
from servable._server.commands.report import Report
from servable._server.config.batching import (
    PER_MODEL_FILE,
    BatchingParameters,
    ModelBatching,
    PlatformBatching,
)
from servable._server.config.text_proto import TextFormatError
from servable.errors import ServableError
from servable.loaders._description import SignatureDescription


def check_batching(
    path: str,
    batching: PlatformBatching,
    model: ModelBatching,
    signatures: Mapping[str, SignatureDescription],
    report: Report,
) -> None:
    """Report errors in the batching of a version.

    Args:
        path: The version directory.
        batching: The batching of its platform.
        model: The batching configuration of its model.
        signatures: The version's signatures.
        report: Collects the findings.
    """
    file = os.path.join(path, PER_MODEL_FILE)
    has_file = batching.per_model and model == ModelBatching() and os.path.exists(file)
    place = file if has_file else path
    try:
        if has_file:
            config_kinds.parse(file, "batching_parameters_file")  # reports the line
        with contextlib.redirect_stderr(io.StringIO()):
            parameters = batching.of_version(path, model).parameters
    except TextFormatError as error:
        report.error(f"Not a BatchingParameters message: {error.reason}", place, error.line)
        return
    except ServableError as error:
        report.error(str(error), place)
        return
    if parameters is None:
        return
    for name, signature in sorted(signatures.items()):
        for reason in _obstacles(signature, parameters):
            report.warning(f"Signature {name} cannot be batched: {reason}", path)


def _obstacles(signature: SignatureDescription, parameters: BatchingParameters) -> Iterator[str]:
    """The reasons why requests of a signature fail, or cannot share a batch."""
    if any(t.part_of for t in [*signature.inputs.values(), *signature.outputs.values()]):
        yield "it has ragged or sparse values, so that its requests are run one by one"
        return
    for name, tensor in sorted(signature.inputs.items()):
        rows = tensor.shape[0] if tensor.shape else None
        if tensor.shape == ():
            yield f"input {name} is a scalar, and its requests will be refused"
        elif rows is not None and rows < parameters.largest_batch:
            yield f"axis 0 of input {name} is always {rows}, so that joined requests fail"
    are_inputs_free = all(t.shape is None or None in t.shape[:1] for t in signature.inputs.values())
    for name, tensor in sorted(signature.outputs.items()):
        if tensor.shape == ():
            yield f"output {name} is a scalar, and cannot be split among requests"
        elif are_inputs_free and tensor.shape and tensor.shape[0] is not None:
            yield f"axis 0 of output {name} is always {tensor.shape[0]}, whatever the batch is"
