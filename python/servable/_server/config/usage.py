"""The help texts, in our form and in that of TensorFlow Serving."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from servable._server.config.flags import Flags

GROUPS: Mapping[str, tuple[str, ...]] = {
    "What to serve": (
        "model_base_path",
        "model_name",
        "model_config_file",
        "model_config_file_poll_wait_seconds",
        "file_system_poll_wait_seconds",
        "allow_version_labels_for_unavailable_models",
        "servable_versions_always_present",
        "fail_if_no_model_versions_found",
        "refuse_shared_base_paths",
    ),
    "Where to listen": (
        "port",
        "rest_api_port",
        "grpc_socket_path",
        "rest_api_socket_path",
        "unix_socket_permissions",
        "open_ports",
        "health_port",
        "rest_api_enable_cors_support",
        "rest_api_cors_allowed_headers",
    ),
    "Who may ask": (
        "tls_certificate_file",
        "tls_key_file",
        "tls_client_ca_file",
        "ssl_config_file",
        "use_alts_credentials",
        "api_keys_file",
        "paths_without_api_key",
        "allow_python_models",
        "allowed_remote_stores",
        "credentials_poll_wait_seconds",
    ),
    "Requests": (
        "worker_threads",
        "rest_api_timeout_in_ms",
        "max_run_seconds",
        "enable_signature_method_name_check",
        "enable_serialization_as_tensor_content",
        "drain_timeout_seconds",
        "rest_api_num_threads",
        "grpc_max_threads",
        "grpc_channel_arguments",
    ),
    "Limits": (
        "max_body_bytes",
        "max_total_body_bytes",
        "max_decompressed_bytes",
        "max_header_bytes",
        "max_headers",
        "max_json_nesting",
        "max_connections",
        "max_concurrent_streams",
        "idle_timeout_seconds",
        "header_timeout_seconds",
        "body_timeout_seconds",
        "min_body_bytes_per_second",
    ),
    "Loading and warming up": (
        "num_load_threads",
        "num_unload_threads",
        "max_num_load_retries",
        "load_retry_interval_micros",
        "enable_model_warmup",
        "num_request_iterations_for_warmup",
        "enable_automatic_warmup",
        "flush_filesystem_caches",
    ),
    "TensorFlow": (
        "saved_model_tags",
        "op_libraries",
        "tensorflow_run_in_caller_thread",
        "tensorflow_session_parallelism",
        "tensorflow_intra_op_parallelism",
        "tensorflow_inter_op_parallelism",
        "tensorflow_session_config_file",
        "per_process_gpu_memory_fraction",
        "mixed_precision",
        "xla_cpu_compilation_enabled",
        "xla_gpu_compilation_enabled",
        "platform_config_file",
        "thread_pool_factory_config_file",
        "remove_unused_fields_from_bundle_metagraph",
        "prefer_tflite_model",
        "num_tflite_pools",
        "num_tflite_interpreters_per_pool",
        "skip_initialize_tpu",
    ),
    "Batching": (
        "enable_batching",
        "batching_parameters_file",
        "enable_per_model_batching_parameters",
    ),
    "Remote models": (
        "remote_poll_wait_seconds",
        "remote_cache_directory",
        "remote_cache_max_bytes",
        "remote_verify_checksums",
    ),
    "Operating": (
        "admin_api_port",
        "admin_api_address",
        "admin_api_hosts",
        "monitoring_config_file",
        "enable_grpc_healthcheck_service",
        "enable_profiler",
        "version",
    ),
}
"""Flags under headings, the most used first. Flags without a group are shown at the end."""

_INTRODUCTION = """\
usage: {program} PATH [PATH ...] [--flag=VALUE ...]
       {program} --model_base_path=DIRECTORY [--flag=VALUE ...]
       {program} COMMAND ...

Serves models over TensorFlow Serving's REST and gRPC APIs. A PATH is a model's file, its version
directory, its base path with numbered version directories, or a directory of models. Their kinds
and names are found by the files. Flags are written --flag=value, those without a value also as
--flag alone; the last one wins. Defaults stand in parentheses.

Commands
  check       say what would be served, and what is wrong with flags, files and models
  inspect     print the signatures of a model, with a request to paste for each
  warmup      write requests that a version is warmed up with before it serves
"""
_SHORT = """\
{program} serves machine-learning models over REST and gRPC, as TensorFlow Serving does.

  {program} PATH ...                                 serve model files, or directories of models
  {program} --model_base_path=DIRECTORY              serve the versions in a directory
  {program} --model_config_file=FILE                 serve the models that a file lists
  {program} --port=8500 --rest_api_port=8501 ...     say where
  {program} check PATH ...                           say what would be served, and what is wrong
  {program} inspect PATH                             print the signatures of a model, with requests
  {program} warmup --help                            write requests to warm versions up with
  {program} --help                                   list all flags
  {program} --version                                say what is installed
"""
_PLACEHOLDERS = {"bool": "", "string": "=TEXT", "float": "=X", "int32": "=N", "int64": "=N"}
_COLUMN = 30
_WIDTH = 100


def short_usage(program: str) -> str:
    """A summary of the commands."""
    return _SHORT.format(program=program)


def grouped_usage(program: str) -> str:
    """The complete help text: commands, then the flags under headings."""
    flags = {flag.name: flag for flag in dataclasses.fields(Flags)}
    defaults = Flags()
    parts = [_INTRODUCTION.format(program=program)]
    grouped = {name for names in GROUPS.values() for name in names}
    others = {"Others": tuple(name for name in flags if name not in grouped)}
    for title, names in {**GROUPS, **others}.items():
        if not names:
            continue
        lines = [title]
        for name in names:
            default = getattr(defaults, name)
            lines += _described(flags[name].metadata, name, default)
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def tensorflow_serving_usage(program: str) -> str:
    """The help text as TensorFlow Serving prints it: every flag with its default, type and meaning."""
    lines = [f"usage: {program}", "Flags:"]
    defaults = Flags()
    for flag in dataclasses.fields(Flags):
        type_name = flag.metadata["type"]
        default = shown(type_name, getattr(defaults, flag.name))
        assignment = f"--{flag.name}={default}"
        lines.append(f"\t{assignment:<33}\t{type_name}\t{flag.metadata['help']}")
    return "\n".join(lines) + "\n"


def shown(type_name: str, value: Any) -> str:
    """A value as TensorFlow Serving prints it."""
    match type_name:
        case "bool":
            return "true" if value else "false"
        case "string":
            return f'"{value}"'
        case "float":
            return f"{value:f}"
        case _:
            return str(value)


def _described(metadata: Mapping[str, Any], name: str, default: Any) -> Sequence[str]:
    type_name: str = metadata["type"]
    text: str = metadata["help"]
    if default not in ("", 0):
        text += f" ({str(default).lower() if type_name == 'bool' else default})"
    head = f"  --{name}{_PLACEHOLDERS[type_name]}"
    lines = textwrap.wrap(text, _WIDTH - _COLUMN, break_on_hyphens=False)
    indented = [" " * _COLUMN + line for line in lines]
    if len(head) + 2 > _COLUMN:
        return [head, *indented]
    return [head.ljust(_COLUMN) + lines[0], *indented[1:]]
