"""The options of TensorFlow's sessions: a `tensorflow.ConfigProto` from a file and from flags.

Options of GPUs are those of the process: TensorFlow configures each GPU for the first session, and keeps that for all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from servable._server.config.flags import Flags
from servable._server.config.text_proto import new_message, parse_text_file
from servable.errors import ConfigError

CONFIG_PROTO = "tensorflow.ConfigProto"

DEFAULT_SESSION_CONFIG = b"\x32\x02\x20\x01"
"""A serialized message with `gpu_options { allow_growth: true }`."""

_log = logging.getLogger(__name__)
_ON = 1
"""`RewriterConfig.ON`."""


def session_config(flags: Flags) -> bytes:
    """The serialized session options of the flags.

    The memory of GPUs grows as it is needed, unless a fraction or the file says otherwise.

    Raises:
        ConfigError: The file cannot be read, or parallelism is set twice.
    """
    intra, inter = _parallelism(flags)
    fraction = flags.per_process_gpu_memory_fraction
    is_plain = not (intra or inter or fraction or flags.mixed_precision)
    if is_plain and not flags.tensorflow_session_config_file:
        return DEFAULT_SESSION_CONFIG  # without an import of protobuf
    config: Any = new_message(CONFIG_PROTO)
    if flags.tensorflow_session_config_file:
        config = parse_text_file(flags.tensorflow_session_config_file, CONFIG_PROTO)
        check_pools(config)
    if not fraction:
        apply_memory_growth(config)
    # As in TensorFlow Serving, even with zeros from flags that were not set.
    config.intra_op_parallelism_threads = intra
    config.inter_op_parallelism_threads = inter
    config.gpu_options.per_process_gpu_memory_fraction = fraction
    apply_mixed_precision(config, flags.mixed_precision)
    return bytes(config.SerializeToString())


def apply_memory_growth(config: Any) -> None:
    """Let the memory of GPUs grow as it is needed, unless the message has options of GPUs.

    TensorFlow would reserve all memory for itself. Models of other kinds, models in worker processes and trial loads
    would then find none.
    """
    if not config.HasField("gpu_options"):
        config.gpu_options.allow_growth = True


def check_gpu_options(configs: Mapping[str, Any]) -> None:
    """Check that platforms agree on GPUs, which a process configures once.

    Args:
        configs: The session options of each platform.

    Raises:
        ConfigError: Platforms name different devices, so that models of one of them could not be loaded.
    """
    first, expected = "", None
    for name, options in ((name, config.gpu_options) for name, config in configs.items()):
        if expected is None:
            first, expected = name, options
        elif _devices(options) != _devices(expected):
            raise ConfigError(
                f"Platforms {first} and {name} have different visible_device_list or virtual_devices in "
                "gpu_options, which apply to the whole process"
            )
        elif options != expected:
            _log.warning(
                "Platforms %s and %s have different gpu_options (%s; %s). They apply to the whole process: "
                "those of the first model that is loaded take effect",
                *(first, name, _one_line(expected), _one_line(options)),
            )


def check_pools(config: Any) -> None:
    """Refuse a configuration that would make TensorFlow end the process.

    Raises:
        ConfigError: A thread pool has a negative number of threads.
    """
    for pool in config.session_inter_op_thread_pool:
        if pool.num_threads < 0:
            raise ConfigError(
                f"session_inter_op_thread_pool.num_threads is 0 or more; got {pool.num_threads}"
            )


def apply_mixed_precision(config: Any, mixed_precision: str) -> None:
    """Enable the graph rewrite to a smaller type where that is safe.

    Args:
        config: The message to change.
        mixed_precision: `bfloat16`, which has an effect on processors that support it, or empty; anything else is
            ignored with a warning.
    """
    if mixed_precision == "bfloat16":
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = _ON
    elif mixed_precision:
        _log.warning("mixed_precision %s has no effect: want bfloat16", mixed_precision)


def _devices(options: Any) -> tuple[str, Sequence[Any]]:
    return options.visible_device_list, list(options.experimental.virtual_devices)


def _one_line(message: Any) -> str:
    return " ".join(str(message).split()) or "none"


def _parallelism(flags: Flags) -> tuple[int, int]:
    """The threads inside operations, and between them; 0 for automatic."""
    both = flags.tensorflow_session_parallelism
    intra = max(flags.tensorflow_intra_op_parallelism, 0)
    inter = max(flags.tensorflow_inter_op_parallelism, 0)
    if not (intra or inter):
        intra = inter = max(both, 0)
    elif intra and inter and both > 0:
        raise ConfigError(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. "
            "You cannot configure all."
        )
    if max(intra, inter) >= 2**31:
        raise ConfigError(f"Threads are a number up to {2**31 - 1}; got {max(intra, inter)}")
    return intra, inter
