"""Messages of `google.protobuf.Any`, and TensorFlow Serving's errors about them."""

from __future__ import annotations

from typing import Any

from servable._server.config.flags import Flags
from servable._server.config.text_proto import new_message, parse_text_file
from servable.errors import Code, ConfigError

THREAD_POOL_FACTORY_CONFIG = "tensorflow.serving.ThreadPoolFactoryConfig"


def unpack(packed: Any, wanted: str | None) -> Any:
    """The message in an `Any`.

    Args:
        packed: The `Any`.
        wanted: The only supported type; `None` if there is none.

    Raises:
        ConfigError: It contains another message or none, in the words of TensorFlow Serving.
    """
    url = packed.type_url
    _, slash, full_name = url.rpartition("/")
    if not (slash and full_name):
        raise ConfigError(f"Supplied config's type_url could not be parsed: {url}")
    from google.protobuf.message import DecodeError

    try:
        message: Any = new_message(full_name)
    except KeyError as error:
        raise ConfigError(
            f"Unable to find compiled-in proto descriptor of type {full_name}", code=Code.INTERNAL
        ) from error
    try:
        packed.Unpack(message)
    except DecodeError as error:
        raise ConfigError(f"Malformed content of Any: {packed}") from error
    if full_name != wanted:
        raise ConfigError(
            f"Couldn't find factory for config proto message type {full_name}\nconfig={message}"
        )
    return message


def check_thread_pool_factory(flags: Flags) -> None:
    """Refuse `--thread_pool_factory_config_file`: this server has no factories.

    Raises:
        ConfigError: The flag is set.
    """
    if flags.thread_pool_factory_config_file:
        message: Any = parse_text_file(
            flags.thread_pool_factory_config_file, THREAD_POOL_FACTORY_CONFIG
        )
        unpack(message.thread_pool_factory_config, None)
