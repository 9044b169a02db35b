from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest

from servable._server.config.batching import (
    BATCHING_OFF,
    BATCHING_PARAMETERS,
    BatchingParameters,
    ModelBatching,
    PlatformBatching,
    batching_parameters,
    flags_batching,
    usable,
)
from servable._server.config.flags import Flags
from servable._server.config.model_messages import models_text
from servable._server.config.models import ModelConfig, read_model_config_file
from servable._server.config.options import check_flags
from servable._server.config.text_proto import new_message, parse_text
from servable.errors import Code, ConfigError

SERVED = Flags(model_base_path="/m", enable_batching=True)
CPUS = BatchingParameters().num_batch_threads

EVERY_FIELD = """
max_batch_size { value: 256 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 16 }
num_batch_threads { value: 8 }
thread_pool_name { value: "batchers" }
allowed_batch_sizes: 64
allowed_batch_sizes: [128, 256]
pad_variable_length_inputs: true
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 64 }
"""
LAST_ENTRY = "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
SHARED = "all models of a platform share threads"
RUN_BY_16 = "max_batch_size { value: 64 } max_execution_batch_size { value: 16 } "
SPLITS = "enable_large_batch_splitting { value: true } "
SPLITTING = (
    "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or "
    "equal to max_execution_batch_size. "
)


def of_text(text: str) -> BatchingParameters:
    return usable(batching_parameters(parse_text(text, BATCHING_PARAMETERS)))


def of_file(directory: Path, text: str, **changes: Any) -> PlatformBatching:
    file = directory / "batching.config"
    file.write_text(text)
    flags = replace(SERVED, batching_parameters_file=str(file), **changes)
    check_flags(flags)
    return flags_batching(flags)


def test_there_are_no_batches_unless_they_are_enabled(tmp_path: Path) -> None:
    (tmp_path / "batching_params.pbtxt").touch()
    batching = flags_batching(Flags(enable_per_model_batching_parameters=True))
    assert batching is BATCHING_OFF
    assert batching.of_version(str(tmp_path)).parameters is None


def test_the_defaults_are_those_of_tensorflow_serving(tmp_path: Path) -> None:
    without_file = flags_batching(SERVED)
    defaults = BatchingParameters(1000, 0, 10, CPUS, "batch_threads", (), False, False, None)
    assert without_file.parameters == replace(
        defaults, thread_pool_name="model_server_batch_threads"
    )
    assert of_file(tmp_path, "# nothing").parameters == defaults


def test_every_field_is_read(tmp_path: Path) -> None:
    assert of_file(tmp_path, EVERY_FIELD) == PlatformBatching(
        BatchingParameters(256, 2000, 16, 8, "batchers", (64, 128, 256), True, True, 64)
    )


def test_the_dataclass_has_the_fields_of_the_messages() -> None:
    messages = (BATCHING_PARAMETERS, "servable.BatchingPolicy")
    names = {field.name for name in messages for field in new_message(name).DESCRIPTOR.fields}
    assert {field.name for field in fields(BatchingParameters)} == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_batch_threads {}", "num_batch_threads must be positive; was 0"),
        ("num_batch_threads { value: -3 }", "num_batch_threads must be positive; was -3"),
        (
            "num_batch_threads { value: 5000000 }",
            "num_batch_threads must not be more than 4096; was 5000000",
        ),
        (
            "max_batch_size { value: 64 } allowed_batch_sizes: [8, 32]",
            LAST_ENTRY + "32; expected 64",
        ),
        ("allowed_batch_sizes: [8, 32]", LAST_ENTRY + "32; expected 1000"),
        (
            "max_batch_size { value: 64 } allowed_batch_sizes: [64, 32]",
            LAST_ENTRY + "32; expected 64",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [0, 4]",
            "allowed_batch_sizes must be positive; got 0",
        ),
        ("max_batch_size {}", "input_batch_size_limit must be positive; was 0"),
        ("max_batch_size { value: -1 }", "input_batch_size_limit must be positive; was -1"),
        (
            "batch_timeout_micros { value: -1 }",
            "batch_timeout_micros must be non-negative; was -1",
        ),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches must be positive; was -1"),
        (
            SPLITS + "max_enqueued_batches {}",
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            SPLITS + "max_execution_batch_size {}",
            "max_execution_batch_size must be positive; was 0",
        ),
        (
            SPLITS + "max_batch_size { value: 8 } max_execution_batch_size { value: 16 }",
            SPLITTING + "max_batch_size is 8, max_execution_batch_size 16",
        ),
        (
            SPLITS + RUN_BY_16 + "allowed_batch_sizes: [8, 16]",
            LAST_ENTRY + "16; expected 64",
        ),
        (
            r'thread_pool_name { value: "a\000b" }',
            r"thread_pool_name must not contain null bytes; was 'a\x00b'",
        ),
    ],
)
def test_contradictory_configurations_are_refused_at_the_start(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as info:
        of_file(tmp_path, text)
    assert (info.value.code, info.value.message) == (Code.INVALID_ARGUMENT, message)


@pytest.mark.parametrize(
    "text",
    ["max_batch_size: 4", "max_batch { value: 4 }", "pad_variable_length_inputs: maybe", ""],
)
def test_files_that_do_not_parse_are_refused_at_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^Invalid protobuf file: '.*/batching.config'$"):
        of_file(tmp_path, text)


def test_a_missing_file_is_refused_at_start() -> None:
    with pytest.raises(ConfigError) as info:
        flags_batching(replace(SERVED, batching_parameters_file="/nowhere/batching.config"))
    assert info.value.code is Code.NOT_FOUND


def test_no_batch_may_wait_means_one(caplog: pytest.LogCaptureFixture) -> None:
    assert of_text("max_enqueued_batches {}").max_enqueued_batches == 1
    assert caplog.messages == []


def test_sizes_are_brought_into_order(caplog: pytest.LogCaptureFixture) -> None:
    text = "max_batch_size { value: 8 } allowed_batch_sizes: [4, 2, 4, 8]"
    assert of_text(text).allowed_batch_sizes == (2, 4, 8)
    assert caplog.messages == ["allowed_batch_sizes are used as [2, 4, 8]; got [4, 2, 4, 8]"]


def test_a_size_that_no_batch_is_padded_to_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    text = "max_batch_size { value: 4 } allowed_batch_sizes: [8, 2, 4]"
    assert of_text(text).allowed_batch_sizes == (2, 4)
    assert caplog.messages == ["allowed_batch_sizes are used as [2, 4]; got [8, 2, 4]"]


def test_a_program_may_give_a_list_of_sizes(caplog: pytest.LogCaptureFixture) -> None:
    given = BatchingParameters(4, allowed_batch_sizes=cast("tuple[int, ...]", [2, 4]))
    assert usable(given).allowed_batch_sizes == (2, 4)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_batch_size": 8.0}, "max_batch_size must be an integer; was 8.0"),
        ({"batch_timeout_micros": "5"}, "batch_timeout_micros must be an integer; was '5'"),
        ({"max_batch_size": None}, "max_batch_size must be an integer; was None"),
        ({"max_enqueued_batches": 2**64}, f"must be less than 2**63; was {2**64}"),
        ({"max_batch_size": 4, "allowed_batch_sizes": 4}, "must be integers; was 4"),
        ({"max_batch_size": 4, "allowed_batch_sizes": ("4",)}, r"must be integers; was ('4',)"),
        ({"thread_pool_name": None}, "thread_pool_name must be a string; was None"),
        ({"latency_objective_millis": "5"}, "latency_objective_millis must be a number; was '5'"),
    ],
)
def test_values_impossible_in_a_file_are_refused_in_programs(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        usable(BatchingParameters(**values))


@pytest.mark.parametrize(
    ("text", "largest"),
    [
        ("", 1000),
        ("max_batch_size { value: 64 }", 64),
        (SPLITS, 1000),
        (SPLITS + "max_batch_size { value: 64 }", 64),
        (
            SPLITS + RUN_BY_16 + "allowed_batch_sizes: [16, 64]",
            16,
        ),
    ],
)
def test_the_largest_batch(text: str, largest: int) -> None:
    assert of_text(text).largest_batch == largest


def test_an_execution_size_without_splitting_is_said_to_have_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parameters = of_text("max_execution_batch_size { value: 5000 }")
    assert (parameters.largest_batch, parameters.max_execution_batch_size) == (1000, None)
    (message,) = caplog.messages
    assert message.startswith("max_execution_batch_size has no effect without")
    # Values that are not checked must not make a load fail later.
    assert of_text("max_execution_batch_size { value: -5 }") == parameters


def test_each_version_may_have_parameters_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Of the common parameters only the threads count; the rest is not even checked.
    text = "max_batch_size { value: -1 } num_batch_threads { value: 3 }"
    batching = of_file(tmp_path, text, enable_per_model_batching_parameters=True)
    assert "own: max_batch_size" in caplog.text
    version = tmp_path / "1"
    version.mkdir()
    assert batching.of_version(str(version)).parameters is None

    file = version / "batching_params.pbtxt"
    file.write_text(
        "batch_timeout_micros { value: 7 } num_batch_threads {} thread_pool_name { value: 'x' }"
    )
    assert batching.of_version(str(version)).parameters == BatchingParameters(
        batch_timeout_micros=7, num_batch_threads=3, thread_pool_name="batch_threads"
    )
    file.write_text("batch_timeout_micros { value: -7 }")
    with pytest.raises(ConfigError, match=r"batch_timeout_micros must be non-negative; was -7"):
        batching.of_version(str(version))
    file.write_text("batch_timeout: 7")
    with pytest.raises(ConfigError, match=r"Invalid protobuf file: '.*/1/batching_params.pbtxt'"):
        batching.of_version(str(version))


def test_all_versions_share_parameters_otherwise(tmp_path: Path) -> None:
    (tmp_path / "batching_params.pbtxt").write_text("nonsense")
    batching = flags_batching(SERVED)
    assert batching.of_version(str(tmp_path)).parameters is batching.parameters


def model_with(directory: Path, options: str) -> ModelConfig:
    file = directory / "models.config"
    file.write_text(
        "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow' "
        f"servable_options {{ {options} }} }} }}"
    )
    models = read_model_config_file(str(file))
    assert models is not None
    # Writing is the inverse of reading.
    file.write_text(models_text(models))
    assert read_model_config_file(str(file)) == models
    (model,) = models
    return model


def test_a_model_may_have_a_way_of_its_own(tmp_path: Path) -> None:
    text = "batching { max_batch_size { value: 8 } allowed_batch_sizes: [4, 8] " + SPLITS
    model = model_with(tmp_path, text + "pad_variable_length_inputs: true }").batching
    own = BatchingParameters(8, 0, 10, CPUS, "batch_threads", (4, 8), True, True)
    assert model == ModelBatching(own)
    platform = PlatformBatching(BatchingParameters(num_batch_threads=3, thread_pool_name="p"))
    in_it = replace(own, num_batch_threads=3, thread_pool_name="p")
    assert platform.of_version("/m/1", model).parameters == in_it
    assert replace(platform, per_model=True).of_version("/m/1", model).parameters == in_it
    assert replace(platform, is_on=False).of_version("/m/1", model).parameters == in_it
    off = model_with(tmp_path, "no_batching: true").batching
    assert platform.of_version("/m/1", off).parameters is None
    unsaid = model_with(tmp_path, "").batching
    assert platform.of_version("/m/1", unsaid).parameters is platform.parameters
    default = model_with(tmp_path, "batching {}").batching
    assert default == ModelBatching(BatchingParameters())


def test_a_model_may_have_what_tensorflow_serving_does_not_know(tmp_path: Path) -> None:
    low = "low_priority_max_batch_size: 4 low_priority_batch_timeout_micros: 9000"
    policy = f"mixed_priority_batching_policy: 'priority_merge' {low}"
    model = model_with(tmp_path, f"batching_policy {{ latency_objective_millis: 20 {policy} }}")
    assert model.batching.parameters == BatchingParameters(
        latency_objective_millis=20,
        mixed_priority_batching_policy="priority_merge",
        low_priority_max_batch_size=4,
        low_priority_batch_timeout_micros=9000,
    )
    both = model_with(
        tmp_path, "batching { max_batch_size { value: 8 } } batching_policy { " + low + " }"
    )
    assert both.batching.parameters == BatchingParameters(
        8, low_priority_max_batch_size=4, low_priority_batch_timeout_micros=9000
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "no_batching: true batching_policy { latency_objective_millis: 20 }",
            "batching_policy says how to batch, and no_batching not to",
        ),
        (
            "batching_policy { latency_objective_millis: -1 }",
            "latency_objective_millis must be positive; was -1",
        ),
        (
            "batching_policy { latency_objective_millis: nan }",
            "latency_objective_millis must be positive; was nan",
        ),
        (
            "batching_policy { latency_objective_millis: 1e-12 }",
            "latency_objective_millis must be between 0.001 and 1e+09; was 1e-12",
        ),
        (
            "batching_policy { latency_objective_millis: 1e300 }",
            "latency_objective_millis must be between 0.001 and 1e+09; was 1e+300",
        ),
        (
            (
                "batching { batch_timeout_micros { value: 5000 } } "
                "batching_policy { latency_objective_millis: 20 }"
            ),
            (
                "latency_objective_millis decides how long batches wait, and batch_timeout_micros is "
                "5000: only one of them can"
            ),
        ),
        (
            "batching_policy { mixed_priority_batching_policy: 'fair' }",
            (
                "mixed_priority_batching_policy must be one of "
                "low_priority_padding_with_max_batch_size, "
                "low_priority_padding_with_next_allowed_batch_size, priority_isolation, priority_merge; "
                "was fair"
            ),
        ),
        (
            "batching_policy { low_priority_max_enqueued_batches: 0 }",
            "low_priority_max_enqueued_batches must be positive; was 0",
        ),
    ],
)
def test_our_own_parameters_are_checked(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(ConfigError) as info:
        model_with(tmp_path, options)
    assert info.value.message == f"Model m: {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("max_batch_size {}", "Model m: input_batch_size_limit must be positive; was 0"),
        (
            "num_batch_threads { value: 2 }",
            "Model m: batching.num_batch_threads is not for one model: " + SHARED,
        ),
    ],
)
def test_the_way_of_a_model_is_checked(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(ConfigError) as info:
        model_with(tmp_path, f"batching {{ {options} }}")
    assert info.value.message == message


def test_the_origin_of_the_batching_of_a_version_is_known(tmp_path: Path) -> None:
    unsaid, off = ModelBatching(), ModelBatching(is_off=True)
    own = ModelBatching(BatchingParameters())
    everywhere = flags_batching(SERVED)
    by_version = flags_batching(replace(SERVED, enable_per_model_batching_parameters=True))
    missing = "there is no batching_params.pbtxt in the version directory"
    for platform, model, is_batched, origin in [
        (BATCHING_OFF, unsaid, False, BATCHING_OFF.origin),
        (BATCHING_OFF, own, True, "batching in the servable_options of the model"),
        (everywhere, off, False, "no_batching in the servable_options of the model"),
        (everywhere, unsaid, True, "--enable_batching without a file"),
        (by_version, unsaid, False, missing),
    ]:
        version = platform.of_version(str(tmp_path), model)
        assert (version.parameters is not None, version.origin) == (is_batched, origin)
    (tmp_path / "batching_params.pbtxt").write_text("# all defaults")
    origin = by_version.of_version(str(tmp_path)).origin
    assert origin == "batching_params.pbtxt in the version directory"
