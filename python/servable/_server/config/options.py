"""Converts flags to the options of each part, and refuses invalid combinations (docs/spec/command_line.md §5)."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from servable._server.config.any_message import check_thread_pool_factory
from servable._server.config.flags import Flags
from servable._server.config.grpc_arguments import GrpcOptions, parse_channel_arguments
from servable._server.config.inapplicable import inapplicable_flags
from servable._server.config.models import (
    ConfigRules,
    ModelConfig,
    absolute_base_path,
    read_model_config_file,
)
from servable._server.config.monitoring import metrics_path
from servable._server.config.server_options import Endpoint, Offer, ServerOptions
from servable._server.config.tls import check_tls_flags
from servable._server.remote.files import require_local
from servable._server.remote.options import RemoteOptions
from servable._server.remote.urls import scheme_of, shown
from servable.errors import Code, ConfigError
from servable.lifecycle._harness import RetryPolicy

_log = logging.getLogger(__name__)

_REFUSED = (("use_alts_credentials", "ALTS credentials"),)
"""Flags of missing features: a start that ignored them would be dangerous or pointless."""


_LIMITS = (
    "max_body_bytes",
    "max_decompressed_bytes",
    "max_header_bytes",
    "max_headers",
    "max_json_nesting",
    "max_connections",
    "idle_timeout_seconds",
    "header_timeout_seconds",
    "body_timeout_seconds",
    "min_body_bytes_per_second",
)
"""Limits for requests of untrusted clients; flags and options have the same names."""

_PATHS = (
    "model_config_file",
    "batching_parameters_file",
    "tensorflow_session_config_file",
    "platform_config_file",
    "monitoring_config_file",
    "thread_pool_factory_config_file",
    "ssl_config_file",
    "tls_certificate_file",
    "tls_key_file",
    "tls_client_ca_file",
    "api_keys_file",
    "grpc_socket_path",
    "rest_api_socket_path",
)
"""Flags that name a file; their values may begin with `~`."""

OPEN_WHEN_LOADED, OPEN_AT_ONCE = "when_loaded", "at_once"
"""The values of `--open_ports`."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

_INT32_MAX = 2**31 - 1

_LEAST_MAX_JSON_NESTING = 64
"""The fast tensor reader does not count nesting up to this depth."""


def with_environment(flags: Flags, environment: Mapping[str, str]) -> Flags:
    """Set the model from `MODEL_NAME` and `MODEL_BASE_PATH`, as the official container does.

    Only if no flag names a model and at least one of the variables is set.
    """
    names_model = flags.model_base_path or flags.model_config_file or flags.model_name != "default"
    if names_model or not environment.keys() & {"MODEL_NAME", "MODEL_BASE_PATH"}:
        return flags
    name = environment.get("MODEL_NAME", "model")
    base_path = f"{environment.get('MODEL_BASE_PATH', '/models')}/{name}"
    return replace(flags, model_name=name, model_base_path=base_path)


def with_absolute_paths(flags: Flags) -> Flags:
    """Expand `~` in paths, and make base paths absolute."""
    base_path = absolute_base_path(flags.model_base_path, os.getcwd())
    cache = flags.remote_cache_directory
    return replace(
        flags,
        model_base_path=base_path,
        remote_cache_directory=cache and os.path.abspath(os.path.expanduser(cache)),
        op_libraries=",".join(map(os.path.expanduser, flags.op_libraries.split(","))),
        **{name: os.path.expanduser(getattr(flags, name)) for name in _PATHS},
    )


def check_flags(flags: Flags, paths: Sequence[str] = ()) -> None:
    """Refuse combinations that cannot be served.

    Args:
        flags: The command line.
        paths: The paths on it, which say what to serve in place of flags.

    Raises:
        ConfigError: With the text of TensorFlow Serving where it refuses the same.
    """
    rest = flags.rest_api_port or flags.rest_api_socket_path
    if flags.port == 0 and not flags.grpc_socket_path and not rest:
        raise ConfigError(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path "
            "must be set."
        )
    check_tls_flags(flags)
    if paths:
        _check_beside_paths(flags, paths)
    elif not flags.model_base_path and not flags.model_config_file:
        raise ConfigError(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    is_batching_wrong = flags.batching_parameters_file and not flags.enable_batching
    if is_batching_wrong and not flags.platform_config_file:
        raise ConfigError(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    for port in (flags.port, flags.rest_api_port, flags.admin_api_port, flags.health_port):
        if not 0 <= port < 2**16:
            raise ConfigError(f"A port is a number up to 65535; got {port}")
    if flags.health_port and flags.health_port in (
        flags.port,
        flags.rest_api_port,
        flags.admin_api_port,
    ):
        raise ConfigError(f"--health_port is a port of its own; {flags.health_port} is another's")
    if flags.open_ports not in (OPEN_WHEN_LOADED, OPEN_AT_ONCE):
        raise ConfigError(
            f"--open_ports is {OPEN_WHEN_LOADED} or {OPEN_AT_ONCE}; got {flags.open_ports}"
        )
    _socket_mode(flags)
    for name in (*_LIMITS, "max_concurrent_streams"):
        if not getattr(flags, name) > 0:
            raise ConfigError(f"--{name} has to be more than 0; got {getattr(flags, name)}")
    if flags.max_json_nesting < _LEAST_MAX_JSON_NESTING:
        raise ConfigError(
            f"--max_json_nesting has to be at least {_LEAST_MAX_JSON_NESTING}; "
            f"got {flags.max_json_nesting}"
        )
    for name, feature in _REFUSED:
        if getattr(flags, name):
            raise ConfigError(f"--{name}: {feature} are not supported", code=Code.UNIMPLEMENTED)
    check_thread_pool_factory(flags)
    for name in ("api_keys_file", "ssl_config_file"):
        if scheme_of(getattr(flags, name)) == "http":
            _log.warning("--%s holds secrets, and http:// shows them to others; use https://", name)
    for library in op_libraries(flags):
        require_local("op_libraries", library, "TensorFlow opens the file")
        if not os.path.isfile(library):
            raise ConfigError(f"--op_libraries: there is no file {library}", code=Code.NOT_FOUND)
    for name, reason in inapplicable_flags(flags).items():
        _log.warning("--%s has no effect: %s", name, reason)


def _check_beside_paths(flags: Flags, paths: Sequence[str]) -> None:
    """Refuse flags that say what to serve, too."""
    for name in ("model_base_path", "model_config_file"):
        if value := getattr(flags, name):
            raise ConfigError(
                f"{paths[0]} and --{name}={shown(value)} both say what to serve; give paths or the flag"
            )


def config_rules(
    flags: Flags, option_types: Mapping[str, type[Any]], *, takes_relative_paths: bool = False
) -> ConfigRules:
    """The rules for configurations on a server.

    Args:
        flags: The command line.
        option_types: The dataclasses of the options of the known platforms, by name.
        takes_relative_paths: Whether base paths in `--model_config_file` may be relative to the file.
    """
    file = flags.model_config_file
    directory = ""
    if takes_relative_paths and file and "://" not in file:
        directory = os.path.dirname(os.path.abspath(file))
    return ConfigRules(
        option_types.keys(),
        flags.refuse_shared_base_paths,
        base_directory=directory,
        option_types=option_types,
    )


def initial_models(flags: Flags, rules: ConfigRules) -> tuple[ModelConfig, ...] | None:
    """The models that the flags name; `None` if a configuration file names none.

    Args:
        flags: The command line.
        rules: The rules for the models.

    Raises:
        ConfigError: The configuration file cannot be used.
    """
    if flags.model_config_file:
        return read_model_config_file(flags.model_config_file, rules)
    _log.info(
        "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
        flags.model_name,
        flags.model_base_path,
    )
    return (ModelConfig(flags.model_name, flags.model_base_path),)


def op_libraries(flags: Flags) -> tuple[str, ...]:
    """The libraries of operations to load into TensorFlow."""
    return tuple(filter(None, flags.op_libraries.split(",")))


def server_options(flags: Flags) -> ServerOptions:
    """The options of the request path.

    Raises:
        ConfigError: The monitoring configuration cannot be read.
    """
    options = ServerOptions(
        endpoints=endpoints(flags),
        socket_mode=_socket_mode(flags),
        rest_timeout_seconds=flags.rest_api_timeout_in_ms / 1000,
        enable_cors=flags.rest_api_enable_cors_support,
        cors_allowed_headers=_cors_allowed_headers(flags),
        tensor_content_responses=flags.enable_serialization_as_tensor_content,
        check_method_names=flags.enable_signature_method_name_check,
        model_repository=bool(flags.admin_api_port),
        grpc=grpc_options(flags),
        metrics_path=metrics_path(flags.monitoring_config_file),
        admin_hosts=("localhost", flags.admin_api_address, *_names(flags.admin_api_hosts)),
        open_paths=tuple(path for path in flags.paths_without_api_key.split(",") if path),
        **{name: getattr(flags, name) for name in _LIMITS},
    )
    metadata_bytes = options.grpc.max_header_bytes or 0
    if flags.max_header_bytes == Flags().max_header_bytes < metadata_bytes:
        # The flag has its default, so the higher limit of the channel argument applies.
        options = replace(options, max_header_bytes=metadata_bytes)
    if flags.max_total_body_bytes > 0:
        options = replace(options, max_total_body_bytes=flags.max_total_body_bytes)
    if flags.worker_threads > 0:
        options = replace(options, worker_threads=flags.worker_threads)
    return options


def grpc_options(flags: Flags) -> GrpcOptions:
    """The options of gRPC; ignored channel arguments are logged.

    If both an argument and a flag set a limit, the lower one applies.

    Raises:
        ConfigError: An argument has an invalid value.
    """
    options, ignored = parse_channel_arguments(flags.grpc_channel_arguments)
    if ignored:
        _log.warning("--grpc_channel_arguments: without effect here: %s", ", ".join(ignored))
    streams = flags.max_concurrent_streams
    if options.max_concurrent_streams is not None:
        is_default = streams == Flags().max_concurrent_streams
        streams = min(options.max_concurrent_streams, _INT32_MAX if is_default else streams)
    return replace(
        options,
        health_service=flags.enable_grpc_healthcheck_service,
        max_concurrent_streams=streams,
    )


def endpoints(flags: Flags) -> tuple[Endpoint, ...]:
    """The addresses to listen on: TCP first, health and administration last of it; equal addresses become one.

    `--ssl_config_file` is for gRPC only. The REST address then stays without TLS and refuses gRPC, so that no client
    can bypass the certificates.
    """
    everywhere = bool(flags.tls_certificate_file)
    for_grpc = everywhere or bool(flags.ssl_config_file)
    offer: Offer = "rest" if for_grpc and not everywhere else "everything"
    found, administration = {}, []
    if flags.port:
        found[flags.port] = Endpoint(f"0.0.0.0:{flags.port}", for_grpc)
    if flags.rest_api_port:
        rest = Endpoint(f"[::]:{flags.rest_api_port}", everywhere, offer)
        found.setdefault(flags.rest_api_port, rest)
    if flags.health_port:
        found[flags.health_port] = Endpoint(f"[::]:{flags.health_port}", offer="health")
    if flags.admin_api_port:
        # Never one with another endpoint: a port that is taken is an error.
        address = _socket_address(flags.admin_api_address, flags.admin_api_port)
        administration.append(Endpoint(address, everywhere, "administration"))
    sockets = {}
    if flags.grpc_socket_path:
        sockets[flags.grpc_socket_path] = Endpoint(f"unix:{flags.grpc_socket_path}", for_grpc)
    if flags.rest_api_socket_path:
        rest = Endpoint(f"unix:{flags.rest_api_socket_path}", everywhere, offer)
        sockets.setdefault(flags.rest_api_socket_path, rest)
    return (*found.values(), *administration, *sockets.values())


def _socket_address(host: str, port: int) -> str:
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host or '0.0.0.0'}:{port}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _cors_allowed_headers(flags: Flags) -> str:
    names = _names(flags.rest_api_cors_allowed_headers)
    for name in names:
        if _HEADER_NAME.fullmatch(name) is None:
            raise ConfigError(
                f"--rest_api_cors_allowed_headers is a comma-separated list of names; got {name}"
            )
    return ", ".join(names)


def _socket_mode(flags: Flags) -> int | None:
    text = flags.unix_socket_permissions
    if not text:
        return None
    if re.fullmatch("0?[0-7]{3}", text, re.ASCII) is None:
        raise ConfigError(
            f"--unix_socket_permissions are three octal digits, such as 660; got {text}"
        )
    return int(text, 8)


def remote_options(flags: Flags) -> RemoteOptions:
    """The options of remote base paths.

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
    """The number of concurrent loads or unloads, from the value of its flag."""
    return threads if threads > 0 else len(os.sched_getaffinity(0))


def initial_load_slots(threads: int) -> int:
    """The number of concurrent loads at the start, when there are no requests that need the CPU.

    Four for each CPU, as in TensorFlow Serving (docs/spec/lifecycle.md §14), unless the flag sets a number.
    """
    return threads if threads > 0 else 4 * slots(threads)
