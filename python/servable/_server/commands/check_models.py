"""Checks the models of a configuration in the way that a server loads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from servable._server.commands.check_batching import check_batching
from servable._server.commands.report import Report, ServedModel, ServedVersion
from servable._server.config.models import ModelConfig
from servable._server.config.options import remote_options
from servable._server.config.permissions import start_permissions
from servable._server.remote.urls import is_remote, local_path
from servable.errors import ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._source import AspiredVersion
from servable.loaders._description import UndescribedError
from servable.platforms import Platform, PlatformContext, SignatureDescription, VersionDirectory
from servable.platforms._registry import PlatformAdapter, code_platforms
from servable.sources._filesystem import FileSystemSource, MonitoredServable
from servable.sources._settling import SettleTimes


def check_models(
    models: Sequence[ModelConfig],
    context: PlatformContext,
    platforms: Mapping[str, Platform],
    report: Report,
    places: Mapping[str, tuple[str, int | None]],
    *,
    loads: bool,
) -> None:
    """Find the versions that would be served, and read or load them.

    Args:
        models: The configured models.
        context: The platforms' context, as in a server.
        platforms: The platforms, by name.
        report: Collects the models and the findings.
        places: File and line of models from a file, by name.
        loads: Whether versions are loaded, not only read.
    """
    flags = context.flags
    try:
        cache_directory = remote_options(flags).cache_directory
        code = code_platforms(platforms)
        permissions = start_permissions(flags, models, cache_directory, code)
    except ServableError as error:
        report.error(str(error))
        return
    context.permissions.current = permissions
    missing: set[str] = set()
    for name in sorted({model.platform for model in models} & platforms.keys()):
        try:
            platforms[name].require_installed()
        except ServableError as error:
            report.error(str(error))
            missing.add(str(error))
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
            report.warning("The base path is remote, and was not checked", model.base_path)
            continue
        platform = platforms.get(model.platform)
        if platform is None:
            report.error(f"Model {model.name} requests unsupported platform {model.platform}")
            continue
        versions = _wanted_versions(model, platform, report, place)
        for number, path in versions.items():
            labels = sorted(label for label, v in model.labels.items() if v == number)
            if platform.runs_code:
                try:
                    permissions.admit_code(model, path)
                except ServableError as error:
                    report.error(str(error), path)
                    continue
            errors = report.errors
            directory = VersionDirectory(path, model)
            signatures = _check_version(
                ServableId(model.name, number), directory, platform, report, missing
            )
            check_batching(path, platform.batching, model.batching, signatures, report)
            if loads and report.errors == errors:
                _load(ServableId(model.name, number), directory, platforms, report)
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
    model: ModelConfig, platform: Platform, report: Report, place: tuple[str, int | None]
) -> Mapping[int, str]:
    """The directories of the versions that a server would load, found by the server's source."""
    found: dict[int, str] = {}

    class Collector:
        def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[str]]) -> None:
            del name
            found.update({v.id.version: v.item for v in versions if isinstance(v.item, str)})

    monitored = MonitoredServable(
        model.name,
        local_path(model.base_path),
        model.version_policy,
        is_complete=platform.is_complete,
    )
    source = FileSystemSource([monitored], poll_wait_seconds=-1, settle_times=SettleTimes(0.0, 0.0))
    source.connect(Collector())
    source.poll()
    for problem in source.problems().values():
        report.error(str(problem), *place)
    source.close()
    return dict(sorted(found.items()))


def _check_version(
    servable_id: ServableId,
    directory: VersionDirectory,
    platform: Platform,
    report: Report,
    reported: Collection[str],
) -> Mapping[str, SignatureDescription]:
    """The signatures of a version; what is wrong with it goes into the report.

    Args:
        servable_id: The version.
        directory: Its directory, and the configuration of its model.
        platform: Its kind.
        report: Collects the findings.
        reported: Errors that are already in the report.
    """
    path = directory.path
    if not platform.is_complete(path):
        report.error(f"Files are missing: {platform.contents}", path)
        return {}
    try:
        platform.make_loader(
            servable_id, directory
        )  # which refuses options, and code without trust
        signatures = platform.describe(path)
    except UndescribedError as error:
        report.warning(str(error).removeprefix(f"{path}: "), path)
        return {}
    except Exception as error:  # the border to code of others
        if str(error) not in reported:
            report.error(_told(error).removeprefix(f"{path}: "), path)
        return {}
    if not signatures:
        report.warning("The version has no signatures, and cannot be called", path)
    return signatures


def _load(
    servable_id: ServableId,
    directory: VersionDirectory,
    platforms: Mapping[str, Platform],
    report: Report,
) -> None:
    """Load a version as a server does, and unload it; in another process, which a damaged file may crash."""
    elsewhere = replace(directory, model=replace(directory.model, process=True))
    try:
        loader = PlatformAdapter(platforms).adapt(servable_id, elsewhere)
        loader.load()
        loader.unload()
    except Exception as error:  # the border to code of others
        report.error(_told(error), directory.path)


def _told(error: Exception) -> str:
    is_plain = isinstance(error, (ServableError, ImportError))
    return str(error) if is_plain else f"{type(error).__name__}: {error}"


def _check_labels(model: ModelConfig, report: Report, place: tuple[str, int | None]) -> None:
    for label, version in model.labels.items():
        report.error(
            f"Label {label} of model {model.name} names version {version}, which is not available "
            "yet when the server starts; set --allow_version_labels_for_unavailable_models",
            *place,
        )
