"""The command line: every flag in one table, and the parser (docs/spec/command_line.md §1 to §3).

Syntax and defaults are those of TensorFlow Serving, so that its command lines continue to work: `--name=value`, bools
also as `--name`. Unknown arguments are reported and do not prevent the start. Only obvious mistakes, such as `--port
8500`, are errors here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_INTEGER_BITS = {"int32": 32, "int64": 64}
_NUMBER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_TRUE, _FALSE = frozenset({"true", "1"}), frozenset({"false", "0"})


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _flag(type_name: str, default: T, help_text: str) -> T:
    metadata = {"type": type_name, "help": help_text}
    declared: Any = field(default=default, metadata=metadata)
    return declared  # type: ignore[no-any-return]  # a dataclass field here, a `T` in instances


def _per_cpu_flag(factor: int, help_text: str) -> int:
    metadata = {"type": "int32", "help": help_text}
    declared: Any = field(default_factory=lambda: factor * _cpus(), metadata=metadata)
    return declared  # type: ignore[no-any-return]  # as above


@dataclass(frozen=True, slots=True)
class Flags:
    """The value of every flag; the fields are the table, in the order of the help text."""

    port: int = _flag("int32", 8500, "TCP port for gRPC and REST on 0.0.0.0; 0 for none")
    grpc_socket_path: str = _flag(
        "string", "", "path of a UNIX socket to listen on, in addition to the ports"
    )
    rest_api_port: int = _flag(
        "int32", 0, "a second TCP port, also for REST and gRPC, on all addresses; 0 for none"
    )
    rest_api_num_threads: int = _per_cpu_flag(4, "no effect; see --worker_threads")
    rest_api_timeout_in_ms: int = _flag(
        "int32", 30000, "time limit of the run of a REST request; 0 or less for no limit"
    )
    rest_api_enable_cors_support: bool = _flag("bool", False, "send CORS headers on REST answers")
    enable_batching: bool = _flag("bool", False, "run requests in batches")
    allow_version_labels_for_unavailable_models: bool = _flag(
        "bool", False, "allow new labels to name versions that are not available yet"
    )
    batching_parameters_file: str = _flag(
        "string", "", "file with a BatchingParameters message, for --enable_batching"
    )
    enable_per_model_batching_parameters: bool = _flag(
        "bool", False, "batch only versions with a file batching_params.pbtxt"
    )
    model_config_file: str = _flag(
        "string", "", "file with a ModelServerConfig message: the models to serve; "
        "--model_name and --model_base_path are then ignored",
    )  # fmt: skip
    model_config_file_poll_wait_seconds: int = _flag(
        "int32", 0, "period of reading --model_config_file again; 0 for never"
    )
    model_name: str = _flag("string", "default", "name of the single model to serve")
    model_base_path: str = _flag(
        "string", "", "absolute path of its directory, with a numbered directory for each version"
    )
    num_load_threads: int = _flag(
        "int32",
        0,
        "maximum number of concurrent loads; 0 for one for each CPU, "
        "and four for each CPU at the start",
    )
    num_unload_threads: int = _flag(
        "int32", 0, "maximum number of concurrent unloads; 0 for one for each CPU"
    )
    max_num_load_retries: int = _flag(
        "int32", 5, "number of retries of a failed load, if it may succeed later"
    )
    load_retry_interval_micros: int = _flag(
        "int64", 60_000_000, "pause before each retry of a load"
    )
    file_system_poll_wait_seconds: int = _flag(
        "int32", 1, "period of polling for new versions; 0 for once, less for never"
    )
    flush_filesystem_caches: bool = _flag(
        "bool", True, "no effect: this server does not cache files"
    )
    tensorflow_session_parallelism: int = _flag(
        "int64", 0, "intra-op and inter-op threads; 0 for automatic"
    )
    tensorflow_session_config_file: str = _flag(
        "string", "", "file with a tensorflow.ConfigProto message: the options of all sessions"
    )
    tensorflow_intra_op_parallelism: int = _flag("int64", 0, "intra-op threads; 0 for automatic")
    tensorflow_inter_op_parallelism: int = _flag("int64", 0, "inter-op threads; 0 for automatic")
    use_alts_credentials: bool = _flag("bool", False, "use Google ALTS (not supported)")
    ssl_config_file: str = _flag(
        "string", "", "file with an SSLConfig message: gRPC over TLS; see --tls_certificate_file"
    )
    platform_config_file: str = _flag(
        "string",
        "",
        "file with a PlatformConfigMap message: named sets of load options, in place of flags",
    )
    per_process_gpu_memory_fraction: float = _flag(
        "float", 0.0, "fraction of each GPU's memory to reserve; 0 to use memory as it is needed"
    )
    saved_model_tags: str = _flag(
        "string", "serve", "comma-separated tags of the meta graph to load, matched exactly"
    )
    grpc_channel_arguments: str = _flag(
        "string", "", "comma-separated key=value settings of gRPC's C++ library; those without "
        "effect are named in the log",
    )  # fmt: skip
    grpc_max_threads: int = _per_cpu_flag(4, "no effect; see --worker_threads")
    enable_model_warmup: bool = _flag(
        "bool", True, "replay the recorded requests of a version before it becomes available"
    )
    num_request_iterations_for_warmup: int = _flag(
        "int32", 0, "number of replays of each recorded request; 0 for one"
    )
    version: bool = _flag("bool", False, "print versions and exit")
    monitoring_config_file: str = _flag(
        "string",
        "",
        "file with a MonitoringConfig message: enables the metrics page and sets its path",
    )
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        "bool", True, "no effect: only signatures are kept"
    )
    prefer_tflite_model: bool = _flag(
        "bool", False, "serve model.tflite of a version directory, if it is there"
    )
    num_tflite_pools: int = _per_cpu_flag(
        1, "interpreters of each TensorFlow Lite model, which is the number of concurrent runs"
    )
    num_tflite_interpreters_per_pool: int = _flag(
        "int32", 1, "above 1, batches of TensorFlow Lite models are split into runs of 500 / N rows"
    )
    enable_signature_method_name_check: bool = _flag(
        "bool", False, "require the method name of a signature to match the call"
    )
    xla_cpu_compilation_enabled: bool = _flag(
        "bool", False, "no effect: functions marked for XLA are always compiled"
    )
    xla_gpu_compilation_enabled: bool = _flag(
        "bool", False, "no effect; see --xla_cpu_compilation_enabled"
    )
    enable_profiler: bool = _flag("bool", True, "no effect: there is no ProfilerService")
    thread_pool_factory_config_file: str = _flag(
        "string", "", "file with a ThreadPoolFactoryConfig message (refused: there is no factory)"
    )
    mixed_precision: str = _flag(
        "string",
        "",
        "bfloat16 allows TensorFlow to rewrite graphs to this type, on processors that support it",
    )
    skip_initialize_tpu: bool = _flag("bool", False, "no effect: TPUs are not supported")
    enable_grpc_healthcheck_service: bool = _flag(
        "bool", False, "answer grpc.health.v1.Health for the server, its services and its models"
    )
    enable_serialization_as_tensor_content: bool = _flag(
        "bool", False, "answer gRPC Predict with tensor_content instead of typed fields"
    )
    # Flags that TensorFlow Serving does not have.
    drain_timeout_seconds: float = _flag(
        "float", 30.0, "time limit of requests in flight after SIGTERM or SIGINT"
    )
    rerun_failed_batches: bool = _flag(
        "bool",
        True,
        "run the requests of a failed batch again in smaller batches, if runs have no side effects, "
        "so that only the requests that cause the error get it",
    )
    max_run_seconds: float = _flag(
        "float", 300.0, "time limit of a run, even without a waiting client; 0 for no limit"
    )
    tensorflow_run_in_caller_thread: bool = _flag(
        "bool",
        True,
        "run graphs without loops on the calling thread; false: large graphs use a thread pool",
    )
    op_libraries: str = _flag(
        "string", "", "comma-separated libraries of custom operations (.so files)"
    )
    rest_api_socket_path: str = _flag("string", "", "path of a UNIX socket for REST")
    rest_api_cors_allowed_headers: str = _flag(
        "string", "", "comma-separated request headers that web pages may send, with "
        "--rest_api_enable_cors_support; empty for Content-Type, and Authorization and X-API-Key with "
        "--api_keys_file",
    )  # fmt: skip
    unix_socket_permissions: str = _flag(
        "string", "", "permissions of UNIX sockets, such as 0660; empty leaves them to the umask"
    )
    tls_certificate_file: str = _flag(
        "string", "", "PEM file with the server's certificate chain: TLS on every port and socket"
    )
    tls_key_file: str = _flag("string", "", "PEM file with the private key of that certificate")
    tls_client_ca_file: str = _flag(
        "string", "", "PEM file with authorities; clients need a certificate signed by one of them"
    )
    credentials_poll_wait_seconds: float = _flag(
        "float", 1.0, "period of checking the files of certificates and keys for changes; "
        "0 or less for never",
    )  # fmt: skip
    api_keys_file: str = _flag(
        "string", "", "file with a line `name:scope:key` for each API key, with the scope predict or "
        "admin; requests then need a key",
    )  # fmt: skip
    paths_without_api_key: str = _flag(
        "string", "", "comma-separated paths without API keys, such as that of the metrics page; "
        "health checks need no key",
    )  # fmt: skip
    allow_python_models: bool = _flag(
        "bool", False, "allow configuration changes to add Python models, and other kinds that are "
        "code, from any directory that only the server's user and root can write",
    )  # fmt: skip
    allowed_remote_stores: str = _flag(
        "string", "", "comma-separated stores, such as s3://bucket, in addition to those of the models "
        "at the start: models may be fetched from them, and code only from these",
    )  # fmt: skip
    # Limits for requests of untrusted clients.
    max_body_bytes: int = _flag("int64", 2**31 - 1, "largest request body")
    max_total_body_bytes: int = _flag(
        "int64", 0, "memory limit of all current request bodies and all answers that clients have not "
        "read; 0 for a quarter of the limit of the machine, control group or ulimit",
    )  # fmt: skip
    max_decompressed_bytes: int = _flag(
        "int64", 100 * 1024 * 1024, "largest request body after decompression"
    )
    max_header_bytes: int = _flag(
        "int32", 64 * 1024, "largest head of a request; each header counts 32 bytes more"
    )
    max_headers: int = _flag("int32", 100, "maximum number of headers of a request")
    max_json_nesting: int = _flag(
        "int32", 10_000_000, "maximum nesting of the JSON of a request; at least 64"
    )
    max_connections: int = _flag(
        "int32", 16384, "maximum number of open connections; further ones wait to be accepted"
    )
    max_concurrent_streams: int = _flag(
        "int32", 1000, "maximum number of concurrent requests on an HTTP/2 connection"
    )
    idle_timeout_seconds: float = _flag(
        "float", 120.0, "time after which an idle connection is closed"
    )
    header_timeout_seconds: float = _flag(
        "float", 50.0, "time limit of the head of a request, and of a TLS handshake"
    )
    body_timeout_seconds: float = _flag("float", 50.0, "time limit between two parts of a body")
    min_body_bytes_per_second: int = _flag(
        "int32", 500, "minimum average rate of a body, after --body_timeout_seconds"
    )
    servable_versions_always_present: bool = _flag(
        "bool", False, "never unload all versions of a configured model; "
        "implies --fail_if_no_model_versions_found",
    )  # fmt: skip
    fail_if_no_model_versions_found: bool = _flag(
        "bool", False, "refuse configurations with models that have no version"
    )
    enable_automatic_warmup: bool = _flag(
        "bool", False, "run each signature of versions without recorded requests once on zeros"
    )
    refuse_shared_base_paths: bool = _flag(
        "bool", False, "refuse configurations in which two models have the same base path"
    )
    admin_api_port: int = _flag("int32", 0, "TCP port of the administration API; 0 for none")
    admin_api_address: str = _flag(
        "string",
        "127.0.0.1",
        "address of --admin_api_port; clients that reach it can change the models",
    )
    admin_api_hosts: str = _flag(
        "string", "", "comma-separated host names of the administration API, in addition to localhost and "
        "the addresses of the port",
    )  # fmt: skip
    remote_poll_wait_seconds: float = _flag(
        "float", 60.0, "period of listing remote base paths (s3://, gs://, "
        "az://, hf://, https://); 0 for once, less for never",
    )  # fmt: skip
    remote_cache_directory: str = _flag(
        "string", "", "cache directory of fetched versions; empty for ~/.cache/servable/models"
    )
    remote_cache_max_bytes: int = _flag(
        "int64", 0, "size limit of the cache; 0 for half of its file system, less for no limit"
    )
    remote_verify_checksums: bool = _flag(
        "bool", True, "verify fetched files by the checksums of the store"
    )
    open_ports: str = _flag(
        "string", "when_loaded", "when ports start to accept: when_loaded, once each model has its "
        "first version, has failed once or has none to load; or at_once",
    )  # fmt: skip
    health_port: int = _flag(
        "int32", 0, "TCP port for health checks only, without TLS, open from the first moment "
        "of the start; 0 for none",
    )  # fmt: skip
    worker_threads: int = _flag(
        "int32", 0, "threads that serve connections and run quick models; 0 for one for each CPU"
    )


@dataclass(frozen=True, slots=True)
class ParsedArguments:
    """A parsed command line.

    Attributes:
        flags: The value of every flag.
        unknown: Arguments that are no flag, in order.
        errors: Why the command line cannot be used; empty if it can.
        help_requested: Whether it only requests the usage text.
    """

    flags: Flags
    unknown: tuple[str, ...]
    errors: tuple[str, ...]
    help_requested: bool


def parse_flags(arguments: Sequence[str]) -> ParsedArguments:
    """Parse a command line, without the name of the program.

    Raises nothing: parsing continues after an error, so that all errors can be reported at once.
    """
    types = {f.name: f.metadata["type"] for f in dataclasses.fields(Flags)}
    values: dict[str, Any] = {}
    unknown: list[str] = []
    errors: list[str] = []
    is_value = False
    for position, argument in enumerate(arguments):
        if is_value:  # of the previous flag; the error is about that flag
            is_value = False
            continue
        if argument == "--":
            unknown.extend(arguments[position:])
            break
        name, has_value, text = argument[2:].partition("=")
        type_name = types.get(name) if argument.startswith("--") else None
        if type_name is None:
            unknown.append(argument)
        elif not has_value and type_name != "bool":
            following = arguments[position + 1 : position + 2]
            is_value = bool(following) and following[0][:1] != "-"
            example = following[0] if is_value else "VALUE"
            errors.append(f"--{name} needs its value after an equals sign: --{name}={example}")
        else:
            value = _parse_value(type_name, text if has_value else "true")
            if value is None:
                errors.append(f"Couldn't interpret value {text} for flag {name}.")
            else:
                values[name] = value
    return ParsedArguments(
        Flags(**values), tuple(unknown), tuple(errors), unknown[:1] == ["--help"]
    )


def similar_flag(argument: str) -> str | None:
    """The flag that an unknown argument was probably meant to be, without its dashes."""
    name = argument.lstrip("-").partition("=")[0].replace("-", "_")
    return similar_word(name, [flag.name for flag in dataclasses.fields(Flags)])


def similar_word(word: str, known: Iterable[str]) -> str | None:
    """The known word that an unknown one was probably meant to be."""
    import difflib  # only needed for mistakes

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)), None)


def _parse_value(type_name: str, text: str) -> bool | int | float | str | None:
    match type_name:
        case "bool":
            lower = text.lower()
            return True if lower in _TRUE else False if lower in _FALSE else None
        case "string":
            return text
        case "float":
            try:
                return float(text) if "_" not in text and text == text.strip() else None
            except ValueError:
                return None
        case _:
            if _NUMBER.fullmatch(text) is None:
                return None
            number, half = int(text), 1 << (_INTEGER_BITS[type_name] - 1)
            return number if -half <= number < half else None
