"""Model configurations: `ModelServerConfig` as dataclasses, and its rules (docs/spec/lifecycle.md §15)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from servable._server.config.batching import ModelBatching, read_model_batching
from servable._server.config.kind_options import NoOptions, parse_options
from servable._server.config.text_proto import message_lines, parse_bytes, parse_text_file
from servable._server.config.traffic import (
    Shadow,
    TrafficSplit,
    read_shadow,
    read_splits,
    traffic_problem,
)
from servable._server.remote.files import read_file
from servable._server.remote.urls import shown
from servable.errors import Code, ConfigError, FailedPreconditionError, ServableError
from servable.loaders._python_callable import PythonOptions
from servable.sources._version_policy import All, Latest, Specific, VersionPolicy

if TYPE_CHECKING:
    from servable._server.config.permissions import Permissions

MODEL_SERVER_CONFIG = "tensorflow.serving.ModelServerConfig"
TENSORFLOW_PLATFORM = "tensorflow"
"""The default platform of models, as in TensorFlow Serving."""

MAX_MODELS = 100_000
"""The maximum number of models of a configuration; each costs memory, and system calls at each poll."""

_MODEL_TYPE_TENSORFLOW = 1
_MAX_WORKERS = 256
_URI = re.compile(r"[A-Za-z][A-Za-z0-9.]*://")
_RELOAD_TAKES_LISTS_ONLY = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. "
    "Only ModelConfigList is currently supported"
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The configuration of one model.

    Attributes:
        name: The name in requests.
        base_path: The parent directory of its versions.
        platform: The kind of servable.
        version_policy: Which versions are served.
        labels: Version numbers by label.
        keep_last_version: Keep the last version loaded when no version is left.
        labels_when_available: Labels may name versions that are not available yet, instead of being refused.
        splits: How requests that name no version are distributed.
        shadow: The version that gets copies of requests.
        python: Options of Python models.
        process: Load and run versions in a worker process.
        trial_load: Load each version in a process that then ends, before it is loaded in the server.
        trusted: Versions may be files that run code when they are read, such as pickles.
        options: Options of the kind of servable, by name.
        remote_poll_wait_seconds: The interval of listings of a remote base path; 0 for the default.
        automatic_warm_up: Warm up versions without recorded requests with zeros.
        batching: The batching of its requests.
    """

    name: str
    base_path: str
    platform: str = TENSORFLOW_PLATFORM
    version_policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    keep_last_version: bool = False
    labels_when_available: bool = False
    splits: tuple[TrafficSplit, ...] = ()
    shadow: Shadow | None = None
    python: PythonOptions = field(default_factory=PythonOptions)
    process: bool = False
    trial_load: bool = False
    trusted: bool = False
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    automatic_warm_up: bool = False
    remote_poll_wait_seconds: float = 0.0
    batching: ModelBatching = field(default_factory=ModelBatching)


class ModelConfigError(ConfigError):
    """A model of a list cannot be served as configured.

    Attributes:
        index: The index of the model, from 0.
        line: Its line in the configuration file, from 1, if there is one.
    """

    def __init__(self, index: int, message: str, *, code: Code | None = None) -> None:
        super().__init__(message, code=code)
        self.index = index
        self.line: int | None = None


class RefusedLabelError(FailedPreconditionError):
    """A label of a model of a list cannot be assigned to the configured version.

    Attributes:
        index: The index of the model, from 0.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, slots=True)
class ConfigRules:
    """The rules that configurations must satisfy on a server.

    Attributes:
        platforms: The known platforms; `None` allows any.
        refuse_shared_base_paths: Whether two models may not have the same base path.
        permissions: The permitted base paths; `None` for all.
        base_directory: The start of relative base paths in a configuration file; they are refused if it is empty.
        option_types: The dataclasses of the options of the known platforms, by name.
    """

    platforms: Collection[str] | None = None
    refuse_shared_base_paths: bool = False
    permissions: Permissions | None = None
    base_directory: str = ""
    option_types: Mapping[str, type[Any]] = field(default_factory=lambda: MappingProxyType({}))


_RULES = ConfigRules()


def read_model_config_file(
    path: str, rules: ConfigRules = _RULES
) -> tuple[ModelConfig, ...] | None:
    """Read `--model_config_file`.

    Args:
        path: The file.
        rules: The rules for its models.

    Returns:
        The models, or `None` if the file contains no list.

    Raises:
        ConfigError: The file cannot be read, or a model cannot be served. File, line and reason are written to stderr.
    """
    message: Any = parse_text_file(path, MODEL_SERVER_CONFIG)
    choice = message.WhichOneof("config")
    if choice == "custom_model_config":
        raise ConfigError(
            "ModelServer does not yet support custom model config.", code=Code.UNIMPLEMENTED
        )
    if not choice:
        return None
    try:
        models = _models(message.model_config_list)
        if rules.base_directory:
            models = tuple(
                replace(model, base_path=absolute_base_path(model.base_path, rules.base_directory))
                for model in models
            )
        validate_models(models, rules=rules)
    except ModelConfigError as error:
        error.line = write_place(path, error.index, error)
        raise
    return models


def absolute_base_path(base_path: str, directory: str) -> str:
    """Make a base path absolute, expanding `~`; URIs stay unchanged.

    Args:
        base_path: The base path; an empty one stays empty.
        directory: The start of relative paths.
    """
    if not base_path or _URI.match(base_path) is not None:
        return base_path
    return os.path.normpath(os.path.join(directory, os.path.expanduser(base_path)))


def write_place(path: str, index: int, error: ServableError) -> int | None:
    """Write the error of a model to stderr, with its place in the configuration file.

    Args:
        path: The file.
        index: The index of the model, from 0.
        error: The error.

    Returns:
        The line, from 1; `None` if it is unknown.
    """
    line = line_of_model(path, index)
    print(f"{shown(path)}:{line or '?'}: {error}", file=sys.stderr)
    return line


def parse_reload_config(data: bytes) -> tuple[ModelConfig, ...]:
    """Read the configuration of a `HandleReloadConfigRequest`.

    Args:
        data: A serialized `ModelServerConfig`.

    Raises:
        ConfigError: It is no list of models, or a model cannot be served.
    """
    message: Any = parse_bytes(data, MODEL_SERVER_CONFIG)
    if message.WhichOneof("config") != "model_config_list":
        raise ConfigError(_RELOAD_TAKES_LISTS_ONLY)
    return _models(message.model_config_list)


def models_by_path(models: Sequence[ModelConfig]) -> Mapping[str, Sequence[str]]:
    """The names of models that share a base path, by path; sharing is nearly always a mistake."""
    names: dict[str, list[str]] = {}
    for model in models:
        names.setdefault(model.base_path.rstrip("/"), []).append(model.name)
    return {path: shared for path, shared in names.items() if len(shared) > 1}


def validate_models(
    models: Sequence[ModelConfig],
    current: Sequence[ModelConfig] = (),
    rules: ConfigRules = _RULES,
) -> None:
    """Check a list of models, also against the current one.

    Args:
        models: The list.
        current: The models that are served now.
        rules: The rules for the models.

    Raises:
        ConfigError: There are too many models, a name is duplicated, a path is relative, the platform of a current
            model would change, a platform is unknown, an option of its kind is invalid, a base path is not permitted,
            two models share one where that is refused, or a traffic split is invalid.
    """
    _check_number(models)
    _check_names(models)
    for index, model in enumerate(models):
        if not model.base_path.startswith("/") and _URI.match(model.base_path) is None:
            raise ModelConfigError(
                index,
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}",
            )
    _check_platforms_stay(models, current)
    for index, model in enumerate(models):
        if rules.platforms is None:
            continue
        if model.platform not in rules.platforms:
            raise ModelConfigError(
                index, f"Model {model.name} requests unsupported platform {model.platform}"
            )
        try:
            parse_options(rules.option_types.get(model.platform, NoOptions), model.options)
        except ConfigError as error:
            raise ModelConfigError(index, f"Model {model.name}: {error.message}") from error
    if rules.permissions is not None:
        _check_permissions(models, current, rules.permissions)
    if rules.refuse_shared_base_paths:
        _check_base_paths(models)
    for index, model in enumerate(models):
        problem = traffic_problem(model.splits, model.shadow)
        if problem is not None:
            raise ModelConfigError(index, f"Model {model.name}: {problem}")


def _check_permissions(
    models: Sequence[ModelConfig], current: Sequence[ModelConfig], permissions: Permissions
) -> None:
    # The current models have been permitted: they must not prevent a change of others.
    before = {model.name: (model.base_path, model.platform, model.trusted) for model in current}
    for index, model in enumerate(models):
        if before.get(model.name) != (model.base_path, model.platform, model.trusted):
            try:
                permissions.check(model)
            except ConfigError as error:
                raise ModelConfigError(index, error.message, code=error.code) from error


def _check_base_paths(models: Sequence[ModelConfig]) -> None:
    for path, names in models_by_path(models).items():
        index = max(index for index, model in enumerate(models) if model.name in names)
        raise ModelConfigError(
            index, f"Models {', '.join(names)} share the base path {path}, and need one each"
        )


def _check_platforms_stay(models: Sequence[ModelConfig], current: Sequence[ModelConfig]) -> None:
    platforms = {model.name: model.platform for model in current}
    for model in models:
        before = platforms.get(model.name, model.platform)
        if before != model.platform:
            raise ConfigError(
                f"Illegal to change a model's platform. For model {model.name} platform was "
                f"{before} and new platform requested is {model.platform}"
            )


def _models(config_list: Any) -> tuple[ModelConfig, ...]:
    _check_number(config_list.config)
    # Names first: TensorFlow Serving reports a duplicate name before any other error.
    _check_names(config_list.config)
    models: list[ModelConfig] = []
    for index, config in enumerate(config_list.config):
        try:
            models.append(_model(config))
        except ConfigError as error:
            raise ModelConfigError(index, error.message, code=error.code) from error
    return tuple(models)


def _check_number(models: Sized) -> None:
    if len(models) > MAX_MODELS:
        raise ConfigError(
            f"The configuration has {len(models)} models; a server takes {MAX_MODELS} at most"
        )


def _check_names(models: Iterable[Any]) -> None:
    names: set[str] = set()
    for index, model in enumerate(models):
        if model.name in names:
            raise ModelConfigError(
                index, f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)


def line_of_model(path: str, index: int) -> int | None:
    """The line where a model begins in a valid file; `None` if it is unknown."""
    try:
        text = read_file(path).decode("utf-8")
    except (ConfigError, UnicodeDecodeError):  # the file has changed since it was parsed
        return None
    lines = message_lines(text, "model_config_list", "config")
    return lines[index] if index < len(lines) else None


def _model(config: Any) -> ModelConfig:
    if config.HasField("logging_config"):
        raise ConfigError("No request-logger-creator provided.")
    return ModelConfig(
        name=config.name,
        base_path=config.base_path,
        platform=_platform(config),
        version_policy=_version_policy(config.model_version_policy),
        labels=MappingProxyType(dict(config.version_labels)),
        keep_last_version=config.servable_options.keep_last_version,
        labels_when_available=config.servable_options.labels_when_available,
        splits=read_splits(config.servable_options),
        shadow=read_shadow(config.servable_options),
        python=_python_options(config),
        process=config.servable_options.process,
        trial_load=config.servable_options.trial_load,
        trusted=config.servable_options.trusted,
        options=MappingProxyType(dict(config.servable_options.options)),
        automatic_warm_up=config.servable_options.warmup.automatic,
        remote_poll_wait_seconds=config.servable_options.remote_poll_wait_seconds,
        batching=_batching(config),
    )


def _batching(config: Any) -> ModelBatching:
    try:
        return read_model_batching(config.servable_options)
    except ConfigError as error:
        raise ConfigError(f"Model {config.name}: {error.message}") from error


def _python_options(config: Any) -> PythonOptions:
    workers = config.servable_options.python.workers
    if workers < 0:
        raise ConfigError(f"Model {config.name} has python.workers {workers}; want 0 or more")
    if workers > _MAX_WORKERS:
        raise ConfigError(
            f"Model {config.name} has python.workers {workers}; want {_MAX_WORKERS} at most"
        )
    return PythonOptions(workers)


def _platform(config: Any) -> str:
    illegal = (
        "ModelServerConfig::model_type (deprecated) {} ModelServerConfig::model_platform, "
        "model name is " + config.name
    )
    if config.model_type and config.model_platform:
        raise ConfigError("Illegal setting both " + illegal.format("and"))
    if config.model_type == _MODEL_TYPE_TENSORFLOW:
        return TENSORFLOW_PLATFORM
    if config.model_type:
        raise ConfigError(
            f"ModelServerConfig::model_type choice {config.model_type} not supported."
        )
    if not config.model_platform:
        raise ConfigError("Illegal setting neither " + illegal.format("nor"))
    return str(config.model_platform)


def _version_policy(policy: Any) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(tuple(policy.specific.versions))
        case "latest":
            return Latest(policy.latest.num_versions)
        case _:
            return Latest()
