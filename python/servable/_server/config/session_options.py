"""The options of TensorFlow's sessions: a `tensorflow.ConfigProto` from a file and from flags."""

from __future__ import annotations

import logging
from typing import Any

from servable._server.config.flags import Flags
from servable._server.config.text_proto import new_message, parse_text_file
from servable.errors import ConfigError

CONFIG_PROTO = "tensorflow.ConfigProto"

_log = logging.getLogger(__name__)
_ON = 1
"""`RewriterConfig.ON`."""


def session_config(flags: Flags) -> bytes:
    """The serialized session options of the flags; empty for the runtime's defaults.

    Raises:
        ConfigError: The file cannot be read, or parallelism is set twice.
    """
    intra, inter = _parallelism(flags)
    fraction = flags.per_process_gpu_memory_fraction
    is_plain = not (intra or inter or fraction or flags.mixed_precision)
    if is_plain and not flags.tensorflow_session_config_file:
        return b""  # without an import of protobuf
    config: Any = new_message(CONFIG_PROTO)
    if flags.tensorflow_session_config_file:
        config = parse_text_file(flags.tensorflow_session_config_file, CONFIG_PROTO)
        check_pools(config)
    # As in TensorFlow Serving, even with zeros from flags that were not set.
    config.intra_op_parallelism_threads = intra
    config.inter_op_parallelism_threads = inter
    config.gpu_options.per_process_gpu_memory_fraction = fraction
    apply_mixed_precision(config, flags.mixed_precision)
    return bytes(config.SerializeToString())


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
