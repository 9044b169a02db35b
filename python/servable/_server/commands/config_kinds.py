"""Recognises the kinds of configuration files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servable._server.config.batching import (
    BATCHING_PARAMETERS,
    batching_parameters,
    batching_problems,
)
from servable._server.config.flags import Flags
from servable._server.config.text_proto import new_message, parse_text
from servable._server.remote.files import read_file
from servable.errors import ConfigError

KINDS: Mapping[str, str] = {
    "model_config_file": "tensorflow.serving.ModelServerConfig",
    "batching_parameters_file": BATCHING_PARAMETERS,
    "monitoring_config_file": "tensorflow.serving.MonitoringConfig",
    "ssl_config_file": "tensorflow.serving.SSLConfig",
    "platform_config_file": "tensorflow.serving.PlatformConfigMap",
    "tensorflow_session_config_file": "tensorflow.ConfigProto",
    "thread_pool_factory_config_file": "tensorflow.serving.ThreadPoolFactoryConfig",
}
"""The message in each flag's file."""


def kind_of(text: str) -> str:
    """The flag that a file is for, by its content.

    An invalid file counts as the kind of its first field. An empty one is ambiguous, and treated as a list of models.
    """
    names = _fields(text)
    return next(
        (
            flag
            for flag, message in KINDS.items()
            if names and names[0] in new_message(message).DESCRIPTOR.fields_by_name
        ),
        "model_config_file",
    )


def parse(path: str, flag: str) -> Any:
    """The message of a file.

    Raises:
        ConfigError: It does not parse; a `TextFormatError` gives the line.
    """
    try:
        text = read_file(path).decode("utf-8")
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"It cannot be read: {error}") from error
    if not text:
        raise ConfigError("The file is empty; write an empty configuration as a comment")
    return parse_text(text, KINDS[flag])


def problems(flag: str, message: Any) -> list[str]:
    """Errors in the values of a message that parses."""
    if flag == "batching_parameters_file":
        return list(batching_problems(batching_parameters(message)))
    if flag == "monitoring_config_file" and not message.prometheus_config.enable:
        return ["prometheus_config.enable is not true: there is no metrics page"]
    return []


def file_flags(flags: Flags) -> Mapping[str, str]:
    """The configuration files on a command line, by flag."""
    return {flag: path for flag in KINDS if (path := getattr(flags, flag))}


def _fields(text: str) -> list[str]:
    """The names of the fields of a text, as far as lines begin with them."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    names = (line.split(":")[0].split("{")[0].split("<")[0].strip() for line in lines if line)
    return [name for name in names if name]
