"""Turns flags into the options of each part, and refuses what does not fit (command_line.md §5)."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from servable.config.flags import Flags
from servable.config.inapplicable import inapplicable_flags
from servable.config.models import ModelConfig, read_model_config_file
from servable.config.server_options import ServerOptions
from servable.config.text_proto import parse_text_file
from servable.errors import Code, ConfigError
from servable.lifecycle.harness import RetryPolicy
from servable.loaders.saved_model import SavedModelOptions
from servable.remote.options import RemoteOptions
from servable.warmup.replay import WarmUpOptions

_log = logging.getLogger(__name__)

# Fields of tensorflow.ConfigProto, as tags on the wire.
_INTRA_OP_THREADS, _INTER_OP_THREADS, _GPU_OPTIONS = b"\x10", b"\x28", b"\x32"
_GPU_MEMORY_FRACTION = b"\x09"

_REFUSED = (
    ("use_alts_credentials", "ALTS credentials"),
    ("ssl_config_file", "TLS"),
    ("grpc_socket_path", "UNIX sockets"),
    ("platform_config_file", "platform configuration files"),
    ("thread_pool_factory_config_file", "thread pool factories"),
)
"""What would be dangerous or pointless to start without."""


def with_environment(flags: Flags, environment: Mapping[str, str]) -> Flags:
    """Take the model from `MODEL_NAME` and `MODEL_BASE_PATH`, as the official container does.

    Only where no flag names a model and at least one of the two is set.
    """
    names_model = flags.model_base_path or flags.model_config_file or flags.model_name != "default"
    if names_model or not environment.keys() & {"MODEL_NAME", "MODEL_BASE_PATH"}:
        return flags
    name = environment.get("MODEL_NAME", "model")
    base_path = f"{environment.get('MODEL_BASE_PATH', '/models')}/{name}"
    return replace(flags, model_name=name, model_base_path=base_path)


def check_flags(flags: Flags) -> None:
    """Refuse combinations that cannot be served.

    Raises:
        ConfigError: With the text of the original where it refuses the same.
    """
    if flags.port == 0 and not flags.grpc_socket_path and flags.rest_api_port == 0:
        raise ConfigError(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path "
            "must be set."
        )
    if flags.use_alts_credentials and flags.ssl_config_file:
        raise ConfigError(
            "Either use_alts_credentials must be false or ssl_config_file must be empty."
        )
    if not flags.model_base_path and not flags.model_config_file:
        raise ConfigError(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    if flags.batching_parameters_file and not flags.enable_batching:
        raise ConfigError(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    for port in (flags.port, flags.rest_api_port, flags.admin_api_port):
        if not 0 <= port < 2**16:
            raise ConfigError(f"A port is a number up to 65535; got {port}")
    for name, feature in _REFUSED:
        if getattr(flags, name):
            raise ConfigError(f"--{name}: {feature} are not supported", code=Code.UNIMPLEMENTED)
    for name, reason in inapplicable_flags(flags).items():
        _log.warning("--%s has no effect: %s", name, reason)


def initial_models(flags: Flags) -> tuple[ModelConfig, ...] | None:
    """The models that the flags name; `None` where a configuration file names none.

    Raises:
        ConfigError: The configuration file cannot be used.
    """
    if flags.model_config_file:
        return read_model_config_file(flags.model_config_file)
    _log.info(
        "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
        flags.model_name,
        flags.model_base_path,
    )
    return (ModelConfig(flags.model_name, flags.model_base_path),)


def server_options(flags: Flags) -> ServerOptions:
    """The options of the request path; equal ports become one."""
    ports = {f"0.0.0.0:{flags.port}": flags.port} if flags.port else {}
    if flags.rest_api_port not in (0, flags.port):
        ports[f"[::]:{flags.rest_api_port}"] = flags.rest_api_port
    options = ServerOptions(
        listen=tuple(ports),
        rest_timeout_seconds=flags.rest_api_timeout_in_ms / 1000,
        enable_cors=flags.rest_api_enable_cors_support,
        tensor_content_responses=flags.enable_serialization_as_tensor_content,
        check_method_names=flags.enable_signature_method_name_check,
        max_body_bytes=flags.max_body_bytes,
    )
    if flags.worker_threads > 0:
        options = replace(options, worker_threads=flags.worker_threads)
    return options


def saved_model_options(flags: Flags) -> SavedModelOptions:
    """How SavedModels are loaded and run.

    Raises:
        ConfigError: The session configuration cannot be read, or parallelism is set twice.
    """
    tags = tuple(flags.saved_model_tags.split(",")) if flags.saved_model_tags else ("serve",)
    return SavedModelOptions(tags, _session_config(flags), flags.tensorflow_run_in_caller_thread)


def warm_up_options(flags: Flags, *, is_automatic: bool) -> WarmUpOptions:
    """How versions of a model are warmed up.

    Args:
        flags: The command line.
        is_automatic: What the model's own configuration says.
    """
    return WarmUpOptions(
        recorded=flags.enable_model_warmup,
        iterations=max(1, flags.num_request_iterations_for_warmup),
        automatic=is_automatic or flags.enable_automatic_warmup,
        check_method_names=flags.enable_signature_method_name_check,
    )


def remote_options(flags: Flags) -> RemoteOptions:
    """How remote base paths are looked after.

    Raises:
        ConfigError: The cache directory is relative.
    """
    options = RemoteOptions(
        poll_wait_seconds=flags.remote_poll_wait_seconds,
        cache_max_bytes=flags.remote_cache_max_bytes,
        verify_checksums=flags.remote_verify_checksums,
    )
    if not flags.remote_cache_directory:
        return options
    if not os.path.isabs(flags.remote_cache_directory):
        raise ConfigError(
            f"--remote_cache_directory is an absolute path; got {flags.remote_cache_directory}"
        )
    return replace(options, cache_directory=Path(flags.remote_cache_directory))


def retry_policy(flags: Flags) -> RetryPolicy:
    """How often a failed load is repeated."""
    return RetryPolicy(flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6)


def slots(threads: int) -> int:
    """How many loads or unloads work at the same time, from the flag that says so."""
    return threads if threads > 0 else len(os.sched_getaffinity(0))


def _session_config(flags: Flags) -> bytes:
    base = b""
    if flags.tensorflow_session_config_file:
        message = parse_text_file(flags.tensorflow_session_config_file, "tensorflow.ConfigProto")
        base = message.SerializeToString()
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if intra > 0 or inter > 0:
        if intra > 0 and inter > 0 and flags.tensorflow_session_parallelism > 0:
            raise ConfigError(
                "Either configure server_options.tensorflow_session_parallelism or "
                "(server_options.tensorflow_intra_op_parallelism, "
                "server_options.tensorflow_inter_op_parallelism) separately. "
                "You cannot configure all."
            )
    else:
        intra = inter = flags.tensorflow_session_parallelism
    fraction = flags.per_process_gpu_memory_fraction
    if not (base or intra > 0 or inter > 0 or fraction):
        return b""
    # The last occurrence of a field wins, so what comes from flags is put behind the file.
    gpu_options = _GPU_MEMORY_FRACTION + struct.pack("<d", fraction)
    return (
        base
        + _INTRA_OP_THREADS + _varint(max(intra, 0))
        + _INTER_OP_THREADS + _varint(max(inter, 0))
        + _GPU_OPTIONS + _varint(len(gpu_options)) + gpu_options
    )  # fmt: skip


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
