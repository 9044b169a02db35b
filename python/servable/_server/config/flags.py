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
    grpc_socket_path: str = _flag("string", "", "path of a UNIX socket to listen on as well")
    rest_api_port: int = _flag(
        "int32", 0, "a second TCP port, for REST and gRPC alike, on all addresses; 0 for none"
    )
    rest_api_num_threads: int = _per_cpu_flag(4, "accepted without effect; see --worker_threads")
    rest_api_timeout_in_ms: int = _flag(
        "int32", 30000, "longest run of one REST request; 0 or less for no limit"
    )
    rest_api_enable_cors_support: bool = _flag("bool", False, "send CORS headers on REST answers")
    enable_batching: bool = _flag("bool", False, "join requests into batches")
    allow_version_labels_for_unavailable_models: bool = _flag(
        "bool", False, "let a new label name a version that is not available yet"
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
        "int32", 0, "how often to read --model_config_file again; 0 for never"
    )
    model_name: str = _flag("string", "default", "name of the single model to serve")
    model_base_path: str = _flag(
        "string", "", "absolute path of its directory, which holds a numbered directory a version"
    )
    num_load_threads: int = _flag(
        "int32",
        0,
        "how many versions are loaded at the same time; 0 for one for each CPU, "
        "and four at the start",
    )
    num_unload_threads: int = _flag(
        "int32", 0, "how many versions are unloaded at the same time; 0 for one for each CPU"
    )
    max_num_load_retries: int = _flag(
        "int32", 5, "attempts after a failed first one to load, where waiting may help"
    )
    load_retry_interval_micros: int = _flag("int64", 60_000_000, "pause before each of them")
    file_system_poll_wait_seconds: int = _flag(
        "int32", 1, "how often to look for new versions; 0 for once, less for never"
    )
    flush_filesystem_caches: bool = _flag(
        "bool", True, "accepted without effect: nothing here caches files"
    )
    tensorflow_session_parallelism: int = _flag(
        "int64", 0, "threads inside an operation and between operations; 0 for automatic"
    )
    tensorflow_session_config_file: str = _flag(
        "string", "", "file with a tensorflow.ConfigProto message: options of every session"
    )
    tensorflow_intra_op_parallelism: int = _flag(
        "int64", 0, "threads inside an operation; 0 for automatic"
    )
    tensorflow_inter_op_parallelism: int = _flag(
        "int64", 0, "threads between operations; 0 for automatic"
    )
    use_alts_credentials: bool = _flag("bool", False, "use Google ALTS (not supported)")
    ssl_config_file: str = _flag(
        "string", "", "file with an SSLConfig message: gRPC over TLS; see --tls_certificate_file"
    )
    platform_config_file: str = _flag(
        "string",
        "",
        "file with a PlatformConfigMap message: ways to load models by name, in place of flags",
    )
    per_process_gpu_memory_fraction: float = _flag(
        "float", 0.0, "share of each GPU's memory to take; 0 leaves it to TensorFlow"
    )
    saved_model_tags: str = _flag(
        "string", "serve", "comma-separated tags of the meta graph to load, matched exactly"
    )
    grpc_channel_arguments: str = _flag(
        "string", "", "comma-separated key=value settings of gRPC's C++ library; those that mean "
        "nothing here are named in the log",
    )  # fmt: skip
    grpc_max_threads: int = _per_cpu_flag(4, "accepted without effect; see --worker_threads")
    enable_model_warmup: bool = _flag(
        "bool", True, "replay a version's recorded requests before it serves"
    )
    num_request_iterations_for_warmup: int = _flag(
        "int32", 0, "how often each of them is replayed; 0 for once"
    )
    version: bool = _flag("bool", False, "print versions and exit")
    monitoring_config_file: str = _flag(
        "string", "", "file with a MonitoringConfig message: whether and where metrics are shown"
    )
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        "bool", True, "accepted without effect: only signatures are kept in any case"
    )
    prefer_tflite_model: bool = _flag("bool", False, "serve model.tflite (not supported yet)")
    num_tflite_pools: int = _per_cpu_flag(1, "with --prefer_tflite_model (not supported yet)")
    num_tflite_interpreters_per_pool: int = _flag(
        "int32", 1, "with --prefer_tflite_model (not supported yet)"
    )
    enable_signature_method_name_check: bool = _flag(
        "bool", False, "require the method name of a signature to fit the call"
    )
    xla_cpu_compilation_enabled: bool = _flag(
        "bool", False, "accepted: functions that are marked for XLA are compiled in any case"
    )
    xla_gpu_compilation_enabled: bool = _flag("bool", False, "the same")
    enable_profiler: bool = _flag(
        "bool", True, "accepted without effect: there is no ProfilerService"
    )
    thread_pool_factory_config_file: str = _flag(
        "string", "", "file with a ThreadPoolFactoryConfig message (refused: there is no factory)"
    )
    mixed_precision: str = _flag(
        "string", "", "bfloat16 lets graphs be rewritten to it on processors that compute with it"
    )
    skip_initialize_tpu: bool = _flag(
        "bool", False, "accepted without effect: TPUs are not supported"
    )
    enable_grpc_healthcheck_service: bool = _flag(
        "bool", False, "answer grpc.health.v1.Health for the server, its services and its models"
    )
    enable_serialization_as_tensor_content: bool = _flag(
        "bool", False, "answer gRPC Predict with tensor_content instead of typed fields"
    )
    # Flags that TensorFlow Serving does not have.
    drain_timeout_seconds: float = _flag(
        "float", 30.0, "how long requests in flight may take after SIGTERM or SIGINT"
    )
    rerun_failed_batches: bool = _flag(
        "bool",
        True,
        "run the requests of a batch that failed again in smaller ones, where a run has no effects "
        "but its outputs, so that an error reaches only the requests that cause it",
    )
    max_run_seconds: float = _flag(
        "float", 300.0, "longest run of a model, also of one that nobody waits for; 0 for no limit"
    )
    tensorflow_run_in_caller_thread: bool = _flag(
        "bool",
        True,
        "run graphs without loops in the thread that asks; false lets large graphs use a pool",
    )
    op_libraries: str = _flag(
        "string", "", "comma-separated libraries of operations that models need (.so files)"
    )
    rest_api_socket_path: str = _flag("string", "", "path of a UNIX socket for REST")
    rest_api_cors_allowed_headers: str = _flag(
        "string", "", "comma-separated headers that web pages may send, with "
        "--rest_api_enable_cors_support; empty for Content-Type, and Authorization and X-API-Key with "
        "--api_keys_file",
    )  # fmt: skip
    unix_socket_permissions: str = _flag(
        "string", "", "permissions of UNIX sockets, such as 0660; empty leaves them to the umask"
    )
    tls_certificate_file: str = _flag(
        "string", "", "PEM file with the server's certificate chain: TLS on every port and socket"
    )
    tls_key_file: str = _flag("string", "", "PEM file with the private key that belongs to it")
    tls_client_ca_file: str = _flag(
        "string", "", "PEM file with certificates; clients need one that one of these has signed"
    )
    credentials_poll_wait_seconds: float = _flag(
        "float", 1.0, "how often to look whether files of certificates and keys have changed; "
        "0 or less for never",
    )  # fmt: skip
    api_keys_file: str = _flag(
        "string", "", "file with a line `name:scope:key` for each API key, the scope predict or "
        "admin; requests need one of them",
    )  # fmt: skip
    paths_without_api_key: str = _flag(
        "string", "", "comma-separated paths that need none, such as that of the metrics page; "
        "health checks never do",
    )  # fmt: skip
    allow_python_models: bool = _flag(
        "bool", False, "let changes of the configuration bring Python models, and other kinds that "
        "are code: from any directory that only the server's user and root may write",
    )  # fmt: skip
    allowed_remote_stores: str = _flag(
        "string", "", "comma-separated stores, such as s3://bucket, beside those of the models that "
        "the server is started with: models may be fetched from them, code from no others",
    )  # fmt: skip
    # Limits for requests of untrusted clients.
    max_body_bytes: int = _flag("int64", 2**31 - 1, "largest request body that is taken")
    max_total_body_bytes: int = _flag(
        "int64", 0, "largest memory of all request bodies under way and all answers that are not "
        "taken; 0 for a quarter of the memory that the machine, control group or ulimit gives",
    )  # fmt: skip
    max_decompressed_bytes: int = _flag(
        "int64", 100 * 1024 * 1024, "largest request body after decompression"
    )
    max_header_bytes: int = _flag(
        "int32", 64 * 1024, "largest head of a request, with 32 bytes on top for each header"
    )
    max_headers: int = _flag("int32", 100, "most headers of a request")
    max_json_nesting: int = _flag(
        "int32", 10_000_000, "how deeply the JSON of a request may be nested; at least 64"
    )
    max_connections: int = _flag(
        "int32", 16384, "most connections open at once; further ones wait to be accepted"
    )
    max_concurrent_streams: int = _flag(
        "int32", 1000, "most requests at once on one connection of HTTP/2"
    )
    idle_timeout_seconds: float = _flag(
        "float", 120.0, "after how long a connection without requests is closed"
    )
    header_timeout_seconds: float = _flag(
        "float", 50.0, "longest that the head of a request, or a TLS handshake, may take"
    )
    body_timeout_seconds: float = _flag("float", 50.0, "longest wait for the next part of a body")
    min_body_bytes_per_second: int = _flag(
        "int32", 500, "how fast bodies have to come, on average and after --body_timeout_seconds"
    )
    servable_versions_always_present: bool = _flag(
        "bool", False, "never unload all versions of a configured model; "
        "implies --fail_if_no_model_versions_found",
    )  # fmt: skip
    fail_if_no_model_versions_found: bool = _flag(
        "bool", False, "refuse a configuration that has a model without a version"
    )
    enable_automatic_warmup: bool = _flag(
        "bool", False, "run each signature of a version without recorded requests once on zeros"
    )
    refuse_shared_base_paths: bool = _flag(
        "bool", False, "refuse configurations in which two models have the same base path"
    )
    admin_api_port: int = _flag("int32", 0, "TCP port of the administration API; 0 for none")
    admin_api_address: str = _flag(
        "string", "127.0.0.1", "where that port is; who reaches it may change what is served"
    )
    admin_api_hosts: str = _flag(
        "string", "", "comma-separated names under which that port may be asked, beside localhost and "
        "the addresses it has",
    )  # fmt: skip
    remote_poll_wait_seconds: float = _flag(
        "float", 60.0, "how often to look for new versions in remote base paths (s3://, gs://, "
        "az://, hf://, https://); 0 for once, less for never",
    )  # fmt: skip
    remote_cache_directory: str = _flag(
        "string", "", "where fetched versions are kept; empty for ~/.cache/servable/models"
    )
    remote_cache_max_bytes: int = _flag(
        "int64", 0, "the size of it to keep to; 0 for half of its file system, less for no limit"
    )
    remote_verify_checksums: bool = _flag(
        "bool", True, "compare what was fetched with the checksums that stores give"
    )
    open_ports: str = _flag(
        "string", "when_loaded", "when ports begin to accept: when_loaded, once each model has its "
        "first version, has failed once or has none to load; or at_once",
    )  # fmt: skip
    health_port: int = _flag(
        "int32", 0, "TCP port that answers health checks only, without TLS, from the first moment "
        "of the start; 0 for none",
    )  # fmt: skip
    worker_threads: int = _flag(
        "int32", 0, "threads that read, decode, run and answer; 0 for one for each CPU"
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
