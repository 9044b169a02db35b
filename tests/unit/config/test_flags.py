from __future__ import annotations

import dataclasses

import pytest

from servable._server.config.flags import Flags, parse_flags, similar_flag
from servable._server.config.usage import GROUPS, grouped_usage, tensorflow_serving_usage

# Name, type and default as TensorFlow Serving prints them; those that depend on the machine left out.
TENSORFLOW_SERVING = """
port int32 8500
grpc_socket_path string ""
rest_api_port int32 0
rest_api_num_threads int32
rest_api_timeout_in_ms int32 30000
rest_api_enable_cors_support bool false
enable_batching bool false
allow_version_labels_for_unavailable_models bool false
batching_parameters_file string ""
enable_per_model_batching_parameters bool false
model_config_file string ""
model_config_file_poll_wait_seconds int32 0
model_name string "default"
model_base_path string ""
num_load_threads int32 0
num_unload_threads int32 0
max_num_load_retries int32 5
load_retry_interval_micros int64 60000000
file_system_poll_wait_seconds int32 1
flush_filesystem_caches bool true
tensorflow_session_parallelism int64 0
tensorflow_session_config_file string ""
tensorflow_intra_op_parallelism int64 0
tensorflow_inter_op_parallelism int64 0
use_alts_credentials bool false
ssl_config_file string ""
platform_config_file string ""
per_process_gpu_memory_fraction float 0.000000
saved_model_tags string "serve"
grpc_channel_arguments string ""
grpc_max_threads int32
enable_model_warmup bool true
num_request_iterations_for_warmup int32 0
version bool false
monitoring_config_file string ""
remove_unused_fields_from_bundle_metagraph bool true
prefer_tflite_model bool false
num_tflite_pools int32
num_tflite_interpreters_per_pool int32 1
enable_signature_method_name_check bool false
xla_cpu_compilation_enabled bool false
xla_gpu_compilation_enabled bool false
enable_profiler bool true
thread_pool_factory_config_file string ""
mixed_precision string ""
skip_initialize_tpu bool false
enable_grpc_healthcheck_service bool false
enable_serialization_as_tensor_content bool false
"""


def test_every_flag_of_tensorflow_serving_has_its_type_and_default() -> None:
    lines = [line.split() for line in TENSORFLOW_SERVING.strip().splitlines()]
    assert len(lines) == 48
    shown = tensorflow_serving_usage("servable").splitlines()
    assert shown[:2] == ["usage: servable", "Flags:"]
    for (name, type_name, *default), line in zip(lines, shown[2:], strict=False):
        flag, shown_type, help_text = line.removeprefix("\t").split("\t")
        assert shown_type == type_name
        assert help_text
        assert len(flag) >= 33
        expected = "".join(default)
        assert flag.rstrip().startswith(f"--{name}={expected}")
        assert not default or flag.rstrip() == f"--{name}={expected}"
    assert len(shown) - 2 == len(dataclasses.fields(Flags))


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--port=8600", "port", 8600),
        ("--port=+1", "port", 1),
        ("--port=-1", "port", -1),
        (
            "--load_retry_interval_micros=9223372036854775807",
            "load_retry_interval_micros",
            2**63 - 1,
        ),
        ("--model_name=a=b", "model_name", "a=b"),
        ("--model_name=", "model_name", ""),
        ('--model_name="quoted"', "model_name", '"quoted"'),
        ("--enable_batching", "enable_batching", True),
        ("--enable_batching=TRUE", "enable_batching", True),
        ("--enable_batching=1", "enable_batching", True),
        ("--flush_filesystem_caches=False", "flush_filesystem_caches", False),
        ("--flush_filesystem_caches=0", "flush_filesystem_caches", False),
        ("--per_process_gpu_memory_fraction=0.5", "per_process_gpu_memory_fraction", 0.5),
        ("--per_process_gpu_memory_fraction=1", "per_process_gpu_memory_fraction", 1.0),
        ("--drain_timeout_seconds=2.5", "drain_timeout_seconds", 2.5),
    ],
)
def test_values_are_read(argument: str, name: str, value: object) -> None:
    parsed = parse_flags([argument])
    assert getattr(parsed.flags, name) == value
    assert (parsed.errors, parsed.unknown) == ((), ())


@pytest.mark.parametrize(
    "argument",
    [
        "--port=many",
        "--port=",
        "--port=1 ",
        "--port=1.0",
        "--port=1_0",
        "--port=2147483648",
        "--load_retry_interval_micros=9223372036854775808",
        "--enable_batching=yes",
        "--enable_batching=",
        "--drain_timeout_seconds=soon",
        "--drain_timeout_seconds=1_0",
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_it(argument: str) -> None:
    name, _, value = argument.removeprefix("--").partition("=")
    (error,) = parse_flags([argument]).errors
    assert error == f"Couldn't interpret value {value} for flag {name}."


def test_parsing_goes_on_after_an_error_and_the_last_value_wins() -> None:
    parsed = parse_flags(["--port=many", "--port=1", "--port=2", "--rest_api_port=x"])
    assert parsed.flags.port == 2
    assert len(parsed.errors) == 2


@pytest.mark.parametrize(
    "argument",
    ["-port=1", "--portal=1", "--rest-api-port=1", "stray", "--enable_batchingly", "--", "--p"],
)
def test_unknown_arguments_are_collected_without_an_error(argument: str) -> None:
    parsed = parse_flags([argument])
    assert parsed.unknown == (argument,)
    assert parsed.errors == ()
    assert parsed.flags == Flags()


def test_two_dashes_end_the_flags() -> None:
    parsed = parse_flags(["--port=1", "--", "--port=2", "x"])
    assert parsed.flags.port == 1
    assert parsed.unknown == ("--", "--port=2", "x")


def test_a_value_after_a_space_is_a_slip_that_is_explained() -> None:
    (error,) = parse_flags(["--port", "8600"]).errors
    assert error.endswith("--port=8600")
    (error,) = parse_flags(["--model_name", "--version"]).errors
    assert error.endswith("--model_name=VALUE")


def test_help_is_asked_for_by_the_first_argument_that_is_no_flag() -> None:
    assert parse_flags(["--port=1", "--help"]).help_requested
    assert not parse_flags(["--unknown", "--help"]).help_requested
    assert not parse_flags([]).help_requested


@pytest.mark.parametrize(
    ("argument", "flag"),
    [
        ("--prot=1", "port"),
        ("-model_name=m", "model_name"),
        ("--rest-api-port=8501", "rest_api_port"),
        ("--something_else", None),
        ("--", None),
    ],
)
def test_a_slip_is_recognised(argument: str, flag: str | None) -> None:
    assert similar_flag(argument) == flag


def test_the_help_has_every_flag_under_one_heading() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    shown = grouped_usage("servable")
    for flag in dataclasses.fields(Flags):
        heads = [line for line in shown.splitlines() if line.startswith(f"  --{flag.name}")]
        assert heads, flag.name
    assert "\nWhere to listen\n  --port=N " in shown
    assert "on 0.0.0.0; 0 for none (8500)\n" in shown
    assert max(map(len, shown.splitlines())) <= 100
