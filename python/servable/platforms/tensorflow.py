"""SavedModels. The options come from flags, or from `--platform_config_file`.

The flags make one platform, named `tensorflow`. The file may name several, and then replaces those flags
(docs/spec/config_files.md §9, §10).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from servable._server.config.any_message import unpack
from servable._server.config.batching import (
    BATCHING_OFF,
    PlatformBatching,
    platform_batching,
)
from servable._server.config.flags import Flags
from servable._server.config.models import TENSORFLOW_PLATFORM
from servable._server.config.options import op_libraries
from servable._server.config.session_options import (
    CONFIG_PROTO,
    apply_memory_growth,
    apply_mixed_precision,
    check_gpu_options,
    check_pools,
    session_config,
)
from servable._server.config.text_proto import parse_bytes, parse_text_file
from servable.errors import Code, ConfigError
from servable.lifecycle import Loader, ServableId
from servable.loaders._description import saved_model_signatures
from servable.loaders._litert import (
    MODEL_FILE,
    LiteRtOptions,
    litert_loader,
    litert_runtime,
    rows_per_run,
)
from servable.loaders._saved_model import (
    SavedModelLoader,
    SavedModelOptions,
    has_saved_model_files,
    is_saved_model,
)
from servable.loaders._saved_model_files import GRAPH, TEXT_GRAPH
from servable.loaders._tensorflow_runtime import TensorFlowRuntime
from servable.loaders._wire import ForwardFile
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
    names_in,
    path_in,
)
from servable.platforms._native import described_elsewhere
from servable.warmup import WarmUpOptions

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

_WITHOUT_EFFECT = ("enable_session_metadata",)
"""Fields of a platform that have no effect here, although they have one in TensorFlow Serving."""


class TensorFlowPlatform(Platform):
    """Loads SavedModels; a server may have several such platforms, with different options."""

    contents = (
        "a SavedModel is all of saved_model.pb, the assets that it names, and every shard of its "
        "variables beside variables.index"
    )

    def __init__(
        self,
        name: str,
        context: PlatformContext,
        runtime: TensorFlowRuntime,
        options: TensorFlowOptions,
    ) -> None:
        """Combine options and a runtime, which may be shared; nothing is opened yet."""
        super().__init__(name, context, options.batching, options.warm_up)
        self.options = options
        self._runtime = runtime
        self._litert = litert_runtime()

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a graph, or a TensorFlow Lite model that is preferred to one."""
        return GRAPH in files or TEXT_GRAPH in files or self._prefers_lite(files)

    def has_all_files(
        self, files: Collection[str], open_file: Callable[[str], ForwardFile] | None = None
    ) -> bool:
        """Whether all files that the graph names exist, as far as it can be opened."""
        return self._prefers_lite(files) or has_saved_model_files(files, open_file)

    def is_complete(self, directory: str) -> bool:
        """Whether all files that the graph names exist."""
        return self._prefers_lite(names_in(directory)) or is_saved_model(directory)

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Read the meta graph with the configured tags, or load the TensorFlow Lite model in another process."""
        if self._prefers_lite(names_in(directory)):
            return described_elsewhere(self, self._litert, directory)
        return saved_model_signatures(directory, self.options.saved_model.tags)

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Load with TensorFlow's C API, or with LiteRT's."""
        del servable_id
        if self._prefers_lite(names_in(directory.path)):
            return self.completed(self.describing_loader(directory.path), directory)
        options, metrics = self.options.saved_model, self.context.metrics
        loader = SavedModelLoader(directory.path, self._runtime, options, metrics)
        return self.completed(loader, directory)

    def require_installed(self) -> None:
        """Find the runtimes; opens TensorFlow if libraries of operations must be loaded into it."""
        if self.options.lite is not None:
            self._litert.require_installed()
        self._runtime.require_installed()
        if self.context.flags.op_libraries:
            self._runtime.get()

    def _prefers_lite(self, files: Collection[str]) -> bool:
        return self.options.lite is not None and MODEL_FILE in files

    def describing_loader(self, directory: str) -> Loader:
        """Load the TensorFlow Lite model."""
        options = self.options.lite or LiteRtOptions()
        return litert_loader(path_in(directory, MODEL_FILE), self._litert, options)


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """One platform from the flags, or those of `--platform_config_file`."""
    runtime = TensorFlowRuntime(op_libraries=op_libraries(context.flags))
    context.metrics.show_tensorflow(runtime.version, runtime.devices)
    for name, options in tensorflow_options(context).items():
        yield TensorFlowPlatform(name, context, runtime, options)


@dataclass(frozen=True, slots=True)
class TensorFlowOptions:
    """Options for the models of a platform.

    Attributes:
        saved_model: How they are loaded and run.
        warm_up: How they are warmed up; a model's configuration may add to it.
        batching: Their batching.
        lite: How `model.tflite` is loaded and run, if it is preferred to a SavedModel (`--prefer_tflite_model`).
    """

    saved_model: SavedModelOptions
    warm_up: WarmUpOptions
    batching: PlatformBatching = BATCHING_OFF
    lite: LiteRtOptions | None = None


def tensorflow_options(context: PlatformContext) -> Mapping[str, TensorFlowOptions]:
    """The options of each platform, by name; the one called `tensorflow` first.

    Raises:
        ConfigError: A file cannot be used, or flags contradict each other.
    """
    flags = context.flags
    if not flags.platform_config_file:
        return {TENSORFLOW_PLATFORM: _of_flags(context)}
    defaults = Flags()
    for name in _REPLACED_FLAGS:
        if getattr(flags, name) != getattr(defaults, name):
            _log.warning("--%s has no effect: --platform_config_file replaces it", name)
    message: Any = parse_text_file(flags.platform_config_file, PLATFORM_CONFIG_MAP)
    configs = message.platform_configs
    names = sorted(configs, key=lambda name: (name != TENSORFLOW_PLATFORM, name))
    options = {name: _of_message(flags, name, configs[name]) for name in names}
    check_gpu_options(
        {
            name: parse_bytes(each.saved_model.session_config, CONFIG_PROTO)
            for name, each in options.items()
        }
    )
    return options


def _of_flags(context: PlatformContext) -> TensorFlowOptions:
    flags = context.flags
    tags = tuple(flags.saved_model_tags.split(",")) if flags.saved_model_tags else ("serve",)
    return TensorFlowOptions(
        SavedModelOptions(
            tags,
            session_config(flags),
            run_in_caller_thread=flags.tensorflow_run_in_caller_thread,
            max_run_seconds=flags.max_run_seconds,
        ),
        context.warm_up,
        context.batching,
        _lite_options(flags, flags) if flags.prefer_tflite_model else None,
    )


def _of_message(flags: Flags, name: str, platform: Any) -> TensorFlowOptions:
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
    apply_memory_growth(config.session_config)
    apply_mixed_precision(config.session_config, config.mixed_precision)
    has_pool = config.HasField("session_run_load_threadpool_index")
    return TensorFlowOptions(
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
        _lite_options(flags, config) if config.prefer_tflite_model else None,
    )


def _lite_options(flags: Flags, source: Any) -> LiteRtOptions:
    """The options of TensorFlow Lite models.

    Args:
        flags: The command line.
        source: The flags, or the message of a platform; both name the fields alike.
    """
    pools = source.num_tflite_pools or getattr(source, "num_tflite_interpreters", 0)
    return LiteRtOptions(
        interpreters=max(1, pools),
        rows_per_run=rows_per_run(source.num_tflite_interpreters_per_pool),
        tensorflow_serving_names=True,
        max_run_seconds=flags.max_run_seconds,
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
