"""The platforms of TensorFlow models: from flags, or from `--platform_config_file`.

A platform is a way to load models: tags, session options, warm-up. The flags make one, named
`tensorflow`; the file may name several, and then replaces those flags (docs/spec/config_files.md §9, §10).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from servable._server.config.any_message import unpack
from servable._server.config.batching import (
    BATCHING_OFF,
    PlatformBatching,
    flags_batching,
    platform_batching,
)
from servable._server.config.flags import Flags
from servable._server.config.models import PYTHON_PLATFORM, TENSORFLOW_PLATFORM
from servable._server.config.session_options import (
    apply_mixed_precision,
    check_pools,
    session_config,
)
from servable._server.config.text_proto import parse_text_file
from servable.errors import Code, ConfigError
from servable.loaders._saved_model import SavedModelOptions
from servable.warmup._replay import WarmUpOptions

_log = logging.getLogger(__name__)

PLATFORM_CONFIG_MAP = "tensorflow.serving.PlatformConfigMap"
_ADAPTER_CONFIG = "tensorflow.serving.SavedModelBundleSourceAdapterConfig"

_REPLACED_FLAGS = (
    "enable_batching",
    "batching_parameters_file",
    "enable_per_model_batching_parameters",
    "tensorflow_session_config_file",
    "tensorflow_session_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
    "per_process_gpu_memory_fraction",
    "saved_model_tags",
    "enable_model_warmup",
    "num_request_iterations_for_warmup",
    "remove_unused_fields_from_bundle_metagraph",
    "prefer_tflite_model",
    "num_tflite_pools",
    "num_tflite_interpreters_per_pool",
    "mixed_precision",
)

_WITHOUT_EFFECT = ("prefer_tflite_model", "enable_session_metadata")
"""Fields of a platform that change nothing here, and would somewhere else."""


@dataclass(frozen=True, slots=True)
class Platform:
    """How the TensorFlow models of a platform are loaded.

    Attributes:
        saved_model: How they are loaded and run.
        warm_up: How they are warmed up, unless their own configuration says more.
        batching: How their requests are joined into batches.
    """

    saved_model: SavedModelOptions
    warm_up: WarmUpOptions
    batching: PlatformBatching = BATCHING_OFF


def tensorflow_platforms(flags: Flags) -> Mapping[str, Platform]:
    """The platforms of TensorFlow models, by the names that configurations use.

    Raises:
        ConfigError: A file cannot be used, or flags contradict each other.
    """
    if not flags.platform_config_file:
        return {TENSORFLOW_PLATFORM: _of_flags(flags)}
    defaults = Flags()
    for name in _REPLACED_FLAGS:
        if getattr(flags, name) != getattr(defaults, name):
            _log.warning("--%s has no effect: --platform_config_file says it all", name)
    message: Any = parse_text_file(flags.platform_config_file, PLATFORM_CONFIG_MAP)
    return {
        name: _of_message(flags, name, platform)
        for name, platform in sorted(message.platform_configs.items())
    }


def python_warm_up(flags: Flags) -> WarmUpOptions:
    """How models in Python are warmed up, which no platform file says anything about."""
    return WarmUpOptions(
        recorded=flags.enable_model_warmup,
        iterations=max(1, flags.num_request_iterations_for_warmup),
        automatic=flags.enable_automatic_warmup,
        check_method_names=flags.enable_signature_method_name_check,
    )


def python_batching(flags: Flags) -> PlatformBatching:
    """How requests for models in Python are joined, of which no platform file says anything.

    Raises:
        ConfigError: A file cannot be used.
    """
    if not flags.platform_config_file:
        return flags_batching(flags)
    return replace(BATCHING_OFF, origin="--platform_config_file does not speak of models in Python")


def _of_flags(flags: Flags) -> Platform:
    tags = tuple(flags.saved_model_tags.split(",")) if flags.saved_model_tags else ("serve",)
    return Platform(
        SavedModelOptions(
            tags,
            session_config(flags),
            run_in_caller_thread=flags.tensorflow_run_in_caller_thread,
            max_run_seconds=flags.max_run_seconds,
        ),
        python_warm_up(flags),
        flags_batching(flags),
    )


def _of_message(flags: Flags, name: str, platform: Any) -> Platform:
    if name == PYTHON_PLATFORM:
        raise ConfigError(
            f"--platform_config_file cannot configure the platform {PYTHON_PLATFORM}, "
            "which is that of models in Python"
        )
    adapter = unpack(platform.source_adapter_config, _ADAPTER_CONFIG)
    config = adapter.legacy_config
    if config.enable_saved_model_config:
        raise ConfigError(
            "Saved model config functionality is not implemented.", code=Code.UNIMPLEMENTED
        )
    if config.session_target:
        raise ConfigError(
            f"Platform {name}: session_target {config.session_target} is a remote runtime, "
            "and these are not supported",
            code=Code.UNIMPLEMENTED,
        )
    for field in _WITHOUT_EFFECT:
        if getattr(config, field):
            _log.warning("Platform %s: %s has no effect here", name, field)
    check_pools(config.session_config)
    apply_mixed_precision(config.session_config, config.mixed_precision)
    has_pool = config.HasField("session_run_load_threadpool_index")
    return Platform(
        SavedModelOptions(
            tuple(config.saved_model_tags) or ("serve",),
            config.session_config.SerializeToString(),
            config.session_run_load_threadpool_index.value if has_pool else None,
            flags.tensorflow_run_in_caller_thread,
            flags.max_run_seconds,
        ),
        WarmUpOptions(
            recorded=config.enable_model_warmup,
            iterations=max(1, config.model_warmup_options.num_request_iterations.value),
            automatic=flags.enable_automatic_warmup,
            check_method_names=flags.enable_signature_method_name_check,
        ),
        _batching(name, config),
    )


def _batching(name: str, config: Any) -> PlatformBatching:
    if not config.HasField("batching_parameters"):
        return replace(BATCHING_OFF, origin=f"platform {name} has no batching_parameters")
    if config.wrap_session_with_no_threading_params:
        _log.warning(
            "Platform %s: batching_parameters have no effect beside "
            "wrap_session_with_no_threading_params",
            name,
        )
        return replace(
            BATCHING_OFF, origin=f"platform {name} has wrap_session_with_no_threading_params"
        )
    return platform_batching(
        config.batching_parameters, per_model=config.enable_per_model_batching_params
    )
