"""Conversion of model configurations to messages, and to and from JSON and text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from servable._server.config.batching import fill_model_batching
from servable._server.config.models import MODEL_SERVER_CONFIG, ModelConfig, parse_reload_config
from servable._server.config.text_proto import new_message
from servable.errors import InvalidInputError
from servable.sources._version_policy import All, Latest, Specific


def models_message(models: Sequence[ModelConfig]) -> Any:
    """A `ModelServerConfig` message that parses to these models."""
    message: Any = new_message(MODEL_SERVER_CONFIG)
    message.model_config_list.SetInParent()
    for model in models:
        _fill(message.model_config_list.config.add(), model)
    return message


def models_text(models: Sequence[ModelConfig]) -> str:
    """The text of a `--model_config_file` with these models."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(models_message(models)))


def model_json(model: ModelConfig) -> dict[str, Any]:
    """The JSON of a `ModelConfig` message, with the field names of the configuration file."""
    from google.protobuf import json_format

    (message,) = models_message([model]).model_config_list.config
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document


def model_from_json(document: Mapping[str, Any]) -> ModelConfig:
    """The model in the JSON of a `ModelConfig` message.

    Raises:
        InvalidInputError: The JSON is no such message.
        ConfigError: The model cannot be served.
    """
    from google.protobuf import json_format

    message: Any = new_message(MODEL_SERVER_CONFIG)
    config = message.model_config_list.config.add()
    try:
        # protobuf raises other exceptions for half of a surrogate pair, which JSON may contain.
        json.dumps(document, ensure_ascii=False).encode()
        json_format.ParseDict(dict(document), config)
    except (json_format.ParseError, UnicodeEncodeError) as error:
        raise InvalidInputError(f"Not a ModelConfig: {error}") from error
    (model,) = parse_reload_config(message.SerializeToString())
    return model


def _fill(message: Any, model: ModelConfig) -> None:
    message.name = model.name
    message.base_path = model.base_path
    message.model_platform = model.platform
    policy = message.model_version_policy
    match model.version_policy:
        case All():
            policy.all.SetInParent()
        case Specific(versions):
            policy.specific.SetInParent()
            policy.specific.versions.extend(versions)
        case Latest(number) if number != 1:
            policy.latest.num_versions = number
        case Latest():
            pass
    message.version_labels.update(model.labels)
    options = message.servable_options
    if model.keep_last_version:
        options.keep_last_version = True
    if model.labels_when_available:
        options.labels_when_available = True
    if model.python.workers:
        options.python.workers = model.python.workers
    if model.process:
        options.process = True
    if model.trial_load:
        options.trial_load = True
    if model.trusted:
        options.trusted = True
    options.options.update(model.options)
    if model.automatic_warm_up:
        options.warmup.automatic = True
    if model.remote_poll_wait_seconds:
        options.remote_poll_wait_seconds = model.remote_poll_wait_seconds
    fill_model_batching(options, model.batching)
    for split in model.splits:
        added = options.traffic_splits.add(label=split.label, sticky_header=split.sticky_header)
        for weighted in split.versions:
            added.versions.add(version=weighted.version, weight=weighted.weight)
    if model.shadow is not None:
        options.shadow.version = model.shadow.version
        options.shadow.fraction = model.shadow.fraction
