from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servable._server.config.batching import BATCHING_OFF, BatchingParameters, PlatformBatching
from servable._server.config.flags import Flags
from servable._server.config.options import check_flags
from servable._server.config.session_options import DEFAULT_SESSION_CONFIG
from servable._server.config.text_proto import new_message, parse_bytes
from servable.errors import Code, ConfigError
from servable.platforms import PlatformContext, find_platforms
from servable.platforms.tensorflow import TensorFlowOptions, tensorflow_options
from servable.warmup import WarmUpOptions

SERVED = Flags(model_base_path="/m")
ADAPTER = "[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig]"

SSL_CONFIG = "[type.googleapis.com/tensorflow.serving.SSLConfig]"
NO_FACTORY = (
    "Couldn't find factory for config proto message type tensorflow.serving.SSLConfig\nconfig="
)


def of_flags(**changes: Any) -> TensorFlowOptions:
    return tensorflow_options(PlatformContext(replace(SERVED, **changes)))["tensorflow"]


def session_config(platform: TensorFlowOptions) -> Any:
    return parse_bytes(platform.saved_model.session_config, "tensorflow.ConfigProto")


def platform(name: str, adapter: str) -> str:
    return f"platform_configs {{ key: '{name}' value {{ source_adapter_config {{ {adapter} }} }} }}"


def of_file(directory: Path, text: str, **changes: Any) -> dict[str, TensorFlowOptions]:
    file = directory / "platforms.config"
    file.write_text(text)
    flags = replace(SERVED, platform_config_file=str(file), **changes)
    return dict(tensorflow_options(PlatformContext(flags)))


def test_session_options_come_from_flags() -> None:
    assert session_config(of_flags()).gpu_options.allow_growth
    both = session_config(of_flags(tensorflow_session_parallelism=300))
    assert (both.intra_op_parallelism_threads, both.inter_op_parallelism_threads) == (300, 300)
    one = session_config(
        of_flags(tensorflow_intra_op_parallelism=2, tensorflow_session_parallelism=9)
    )
    assert (one.intra_op_parallelism_threads, one.inter_op_parallelism_threads) == (2, 0)
    gpu = session_config(of_flags(per_process_gpu_memory_fraction=0.25))
    assert gpu.gpu_options.per_process_gpu_memory_fraction == 0.25

    # The message without options is written without protobuf.
    grows: Any = new_message("tensorflow.ConfigProto")
    grows.gpu_options.allow_growth = True
    assert grows.SerializeToString() == DEFAULT_SESSION_CONFIG


def test_the_memory_of_gpus_grows_unless_configured(tmp_path: Path) -> None:
    assert session_config(of_flags(tensorflow_session_parallelism=3)).gpu_options.allow_growth
    assert not session_config(
        of_flags(per_process_gpu_memory_fraction=1.0)
    ).gpu_options.allow_growth
    file = tmp_path / "session.config"
    for text, grows in (
        ("allow_soft_placement: true", True),
        ("gpu_options { visible_device_list: '1' }", False),
    ):
        file.write_text(text)
        flags = {"tensorflow_session_config_file": str(file)}
        assert session_config(of_flags(**flags)).gpu_options.allow_growth == grows
        adapter = f"{ADAPTER} {{ legacy_config {{ session_config {{ {text} }} }} }}"
        config = session_config(of_file(tmp_path, platform("p", adapter))["p"])
        assert config.gpu_options.allow_growth == grows


def test_platforms_that_configure_gpus_differently_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load(*options: str) -> None:
        text = " ".join(
            platform(name, f"{ADAPTER} {{ legacy_config {{ session_config {{ {each} }} }} }}")
            for name, each in zip("abc", options, strict=False)
        )
        of_file(tmp_path, text)

    load("gpu_options { allow_growth: true }", "", "intra_op_parallelism_threads: 3")
    assert "gpu_options" not in caplog.text
    load("gpu_options { per_process_gpu_memory_fraction: 0.5 }", "")
    assert (
        "Platforms a and b have different gpu_options (per_process_gpu_memory_fraction: 0.5; "
        "allow_growth: true). They apply to the whole process" in caplog.text
    )
    virtual = "gpu_options { experimental { virtual_devices { memory_limit_mb: 100 } } }"
    for other in ("gpu_options { visible_device_list: '1' }", virtual):
        with pytest.raises(ConfigError, match="Platforms a and c have different visible_device_l"):
            load("", "", other)


def test_flags_overwrite_the_session_file_even_with_zero(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text(
        "intra_op_parallelism_threads: 7 allow_soft_placement: true "
        "gpu_options { allow_growth: true per_process_gpu_memory_fraction: 0.5 } "
        "graph_options { optimizer_options { global_jit_level: ON_1 } }"
    )
    config = session_config(of_flags(tensorflow_session_config_file=str(file)))
    assert config.allow_soft_placement
    assert config.intra_op_parallelism_threads == 0
    assert config.gpu_options.allow_growth
    assert config.gpu_options.per_process_gpu_memory_fraction == 0
    assert config.graph_options.optimizer_options.global_jit_level == 1


def test_parallelism_is_set_in_one_way_and_in_range() -> None:
    with pytest.raises(ConfigError, match="You cannot configure all"):
        of_flags(
            tensorflow_session_parallelism=1,
            tensorflow_intra_op_parallelism=1,
            tensorflow_inter_op_parallelism=1,
        )
    for name in ("tensorflow_session_parallelism", "tensorflow_inter_op_parallelism"):
        with pytest.raises(ConfigError, match="up to 2147483647; got 2147483648"):
            of_flags(**{name: 2**31})


def test_a_pool_of_less_than_no_threads_is_refused(tmp_path: Path) -> None:
    pool = "session_inter_op_thread_pool { num_threads: -7 }"
    file = tmp_path / "session.config"
    file.write_text(pool)
    with pytest.raises(ConfigError, match="num_threads is 0 or more; got -7"):
        of_flags(tensorflow_session_config_file=str(file))
    with pytest.raises(ConfigError, match="num_threads is 0 or more; got -7"):
        of_file(
            tmp_path,
            platform("p", f"{ADAPTER} {{ legacy_config {{ session_config {{ {pool} }} }} }}"),
        )


def test_tags_are_split_and_not_trimmed() -> None:
    tags = [of_flags(saved_model_tags=text).saved_model.tags
            for text in ("serve", "serve,gpu", "a, b", "")]  # fmt: skip
    assert tags == [("serve",), ("serve", "gpu"), ("a", " b"), ("serve",)]


def test_bfloat16_is_the_one_mixed_precision(caplog: pytest.LogCaptureFixture) -> None:
    config = session_config(of_flags(mixed_precision="bfloat16"))
    assert config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 == 1
    assert caplog.messages == []
    assert not session_config(of_flags(mixed_precision="float8")).HasField("graph_options")
    assert caplog.messages == ["mixed_precision float8 has no effect: want bfloat16"]


def test_a_file_names_platforms_and_replaces_flags(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = platform(
        "tensorflow",
        ADAPTER + "{ legacy_config { session_config { intra_op_parallelism_threads: 4 } "
        "session_run_load_threadpool_index { value: 1 } mixed_precision: 'bfloat16' } }",
    ) + platform(
        "gpu",
        ADAPTER + "{ legacy_config { saved_model_tags: ['serve', 'gpu'] enable_model_warmup: true "
        "model_warmup_options { num_request_iterations { value: 3 } } "
        "batching_parameters { max_batch_size { value: 2 } } } }",
    )
    platforms = of_file(tmp_path, text, saved_model_tags="other", enable_automatic_warmup=True)
    plain, gpu = platforms["tensorflow"], platforms["gpu"]
    assert plain.saved_model.tags == ("serve",)
    assert session_config(plain).intra_op_parallelism_threads == 4
    rewriting = session_config(plain).graph_options.rewrite_options
    assert rewriting.auto_mixed_precision_onednn_bfloat16 == 1
    assert plain.saved_model.load_thread_pool == 1
    assert plain.warm_up == WarmUpOptions(recorded=False, automatic=True)
    assert (gpu.saved_model.tags, gpu.saved_model.session_config) == (
        ("serve", "gpu"),
        DEFAULT_SESSION_CONFIG,
    )
    assert gpu.saved_model.load_thread_pool is None
    assert gpu.warm_up == WarmUpOptions(recorded=True, iterations=3, automatic=True)
    assert plain.batching == BATCHING_OFF
    assert plain.batching.origin == "platform tensorflow has no batching_parameters"
    assert gpu.batching == PlatformBatching(BatchingParameters(max_batch_size=2))
    assert caplog.messages == [
        "--saved_model_tags has no effect: --platform_config_file replaces it",
    ]


def test_a_platform_may_delegate_batching_to_its_versions_or_disable_it(tmp_path: Path) -> None:
    parameters = "batching_parameters { num_batch_threads { value: 2 } } "
    per_model = ADAPTER + f"{{ legacy_config {{ {parameters}"
    text = platform("a", per_model + "enable_per_model_batching_params: true } }") + platform(
        "b", per_model + "wrap_session_with_no_threading_params: true } }"
    )
    platforms = of_file(tmp_path, text, enable_batching=True)
    two = BatchingParameters(num_batch_threads=2)
    assert platforms["a"].batching == PlatformBatching(two, per_model=True)
    assert platforms["b"].batching == BATCHING_OFF
    assert "wrap_session_with" in platforms["b"].batching.origin
    wrong = ADAPTER + "{ legacy_config { batching_parameters { max_batch_size {} } } }"
    with pytest.raises(ConfigError, match="input_batch_size_limit must be positive; was 0"):
        of_file(tmp_path, platform("a", wrong))


def test_models_of_other_platforms_are_batched_as_the_flags_say(tmp_path: Path) -> None:
    assert PlatformContext(replace(SERVED, enable_batching=True)).batching.is_on
    assert PlatformContext(SERVED).batching is BATCHING_OFF
    file = tmp_path / "p"
    file.write_text(platform("p", ADAPTER + " {}"))
    with_file = replace(SERVED, enable_batching=True, platform_config_file=str(file))
    platforms = find_platforms(PlatformContext(with_file))
    assert "tensorflow" not in platforms
    assert platforms["python"].batching == BATCHING_OFF
    assert "--platform_config_file" in platforms["python"].batching.origin


def test_a_file_cannot_configure_the_platform_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text(platform("python", ADAPTER + " {}"))
    flags = replace(SERVED, platform_config_file=str(file))
    with pytest.raises(ConfigError, match="cannot configure the platform python"):
        find_platforms(PlatformContext(flags))


@pytest.mark.parametrize(
    ("adapter", "code", "message"),
    [
        ("", Code.INVALID_ARGUMENT, "Supplied config's type_url could not be parsed: "),
        (
            "type_url: 'x/'",
            Code.INVALID_ARGUMENT,
            "Supplied config's type_url could not be parsed: x/",
        ),
        (
            "type_url: 'x/torch.Config'",
            Code.INTERNAL,
            "Unable to find compiled-in proto descriptor of type torch.Config",
        ),
        (
            "type_url: 'x/tensorflow.serving.SavedModelBundleSourceAdapterConfig' value: '\\377'",
            Code.INVALID_ARGUMENT,
            "Malformed content of Any: ",
        ),
        (
            SSL_CONFIG + " { custom_ca: 'c' }",
            Code.INVALID_ARGUMENT,
            f'{NO_FACTORY}custom_ca: "c"',
        ),
        (
            ADAPTER + "{ legacy_config { enable_saved_model_config: true } }",
            Code.UNIMPLEMENTED,
            "Saved model config functionality is not implemented.",
        ),
        (
            ADAPTER + "{ legacy_config { session_target: 'grpc://h:1' } }",
            Code.UNIMPLEMENTED,
            "Platform p: session_target grpc://h:1 is a remote runtime",
        ),
        ("[type.googleapis.com/torch.Config] {}", Code.INVALID_ARGUMENT, "Invalid protobuf file: "),
    ],
)
def test_a_platform_that_there_is_not_is_refused(
    tmp_path: Path, adapter: str, code: Code, message: str
) -> None:
    with pytest.raises(ConfigError) as info:
        of_file(tmp_path, platform("p", adapter))
    assert info.value.message.startswith(message)
    assert info.value.code is code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing", "Supplied config's type_url could not be parsed: "),
        (
            f"thread_pool_factory_config {{ {SSL_CONFIG} {{ client_verify: true }} }}",
            f"{NO_FACTORY}client_verify: true",
        ),
        ("nonsense: 1", "Invalid protobuf file: '"),
    ],
)
def test_thread_pool_factories_are_refused_as_in_tensorflow_serving(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "pools.config"
    file.write_text(text)
    with pytest.raises(ConfigError) as info:
        check_flags(replace(SERVED, thread_pool_factory_config_file=str(file)))
    assert info.value.message.startswith(message)
    with pytest.raises(ConfigError) as info:
        check_flags(replace(SERVED, thread_pool_factory_config_file=str(tmp_path / "none")))
    assert info.value.code is Code.NOT_FOUND
