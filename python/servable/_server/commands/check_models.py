"""Looks at the models of a configuration as a server would find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servable._server.commands.check_batching import check_batching
from servable._server.commands.report import Report, ServedModel, ServedVersion
from servable._server.config.flags import Flags
from servable._server.config.models import PYTHON_PLATFORM, ModelConfig
from servable._server.config.options import op_libraries, remote_options
from servable._server.config.permissions import start_permissions
from servable._server.config.platforms import Platform, python_batching, tensorflow_platforms
from servable._server.remote.urls import is_remote, local_path
from servable.errors import LoadError, ServableError
from servable.lifecycle._source import AspiredVersion
from servable.loaders._description import SignatureDescription, read_version
from servable.loaders._python_model import is_python_model
from servable.loaders._saved_model import SavedModelLoader, is_saved_model
from servable.loaders._tensorflow_runtime import TensorFlowRuntime
from servable.sources._filesystem import FileSystemSource, MonitoredServable
from servable.sources._settling import SettleTimes
from servable.warmup._replay import warm_up


def check_models(
    models: Sequence[ModelConfig],
    flags: Flags,
    report: Report,
    places: Mapping[str, tuple[str, int | None]],
    *,
    loads: bool,
) -> None:
    """Find the versions that would be served, and read or load them.

    Args:
        models: What is configured.
        flags: The command line.
        report: Where the models and the findings go.
        places: File and line of models that a file names, by their names.
        loads: Whether versions are loaded for real.
    """
    try:
        platforms = tensorflow_platforms(flags)
    except ServableError:
        return  # it is in the report
    try:
        cache_directory = remote_options(flags).cache_directory
        permissions = start_permissions(flags, models, cache_directory)
    except ServableError as error:
        report.error(str(error))
        return
    runtime = TensorFlowRuntime(op_libraries=op_libraries(flags))
    if any(model.platform in platforms for model in models):
        try:
            runtime.require_installed()
        except LoadError as error:
            report.error(str(error))
            loads = False
    for model in models:
        served = ServedModel(model.name, model.base_path, model.platform)
        report.models.append(served)
        place = places.get(model.name, ("", None))
        try:
            permissions.check(model)
        except ServableError as error:
            report.error(str(error), *place)
            continue
        if is_remote(model.base_path):
            report.warning("The base path is remote, and was not looked at", model.base_path)
            continue
        versions = _wanted_versions(model, report, place)
        for number, path in versions.items():
            labels = sorted(label for label, v in model.labels.items() if v == number)
            platform = platforms.get(model.platform)
            if model.platform == PYTHON_PLATFORM:
                try:
                    permissions.admit_code(model.base_path, path)
                except ServableError as error:
                    report.error(str(error), path)
                    continue
            signatures = _check_version(path, platform, runtime if loads else None, report)
            batching = platform.batching if platform else python_batching(flags)
            check_batching(path, batching, model.batching, signatures, report)
            served.versions.append(ServedVersion(number, path, tuple(labels), signatures))
        if not (model.labels_when_available or flags.allow_version_labels_for_unavailable_models):
            _check_labels(model, report, place)
        for label, number in model.labels.items():
            if number not in versions:
                report.warning(
                    f"Label {label} of model {model.name} names version {number}, "
                    "which would not be served",
                    *place,
                )


def _wanted_versions(
    model: ModelConfig, report: Report, place: tuple[str, int | None]
) -> Mapping[int, str]:
    """The directories of the versions that a server would load, found by what it finds them with."""
    found: dict[int, str] = {}

    class Collector:
        def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[str]]) -> None:
            del name
            found.update({v.id.version: v.item for v in versions if isinstance(v.item, str)})

    monitored = MonitoredServable(
        model.name,
        local_path(model.base_path),
        model.version_policy,
        is_complete=is_python_model if model.platform == PYTHON_PLATFORM else is_saved_model,
    )
    source = FileSystemSource([monitored], poll_wait_seconds=-1, settle_times=SettleTimes(0.0, 0.0))
    source.connect(Collector())
    source.poll()
    for problem in source.problems().values():
        report.error(str(problem), *place)
    source.close()
    return dict(sorted(found.items()))


def _check_version(
    path: str, platform: Platform | None, runtime: TensorFlowRuntime | None, report: Report
) -> Mapping[str, SignatureDescription]:
    """The signatures of a version; what is wrong with it goes into the report."""
    tags = platform.saved_model.tags if platform else ()
    try:
        if platform is not None and not is_saved_model(path):
            report.error("Files are missing: a SavedModel is all of saved_model.pb, the assets that it "
                         "names, and every shard of its variables beside variables.index", path)  # fmt: skip
            return {}
        signatures = read_version(path, tags)
    except ServableError as error:
        report.error(str(error).removeprefix(f"{path}: "), path)
        return {}
    try:
        if not signatures:
            report.warning("The version has no signatures, and cannot be called", path)
        if platform is not None and runtime is not None:
            _load(path, platform, runtime)
    except ServableError as error:
        report.error(str(error), path)
    return signatures


def _load(path: str, platform: Platform, runtime: TensorFlowRuntime) -> None:
    loader = SavedModelLoader(path, runtime, platform.saved_model)
    loader.load()
    try:
        warm_up(loader.servable, path, platform.warm_up)
    finally:
        loader.unload()


def _check_labels(model: ModelConfig, report: Report, place: tuple[str, int | None]) -> None:
    for label, version in model.labels.items():
        report.error(
            f"Label {label} of model {model.name} names version {version}, which is not available "
            "yet when the server starts; set --allow_version_labels_for_unavailable_models",
            *place,
        )
