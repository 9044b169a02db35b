"""Finds the kinds of servables."""

from __future__ import annotations

import contextlib
import importlib
import logging
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from typing import Any, TypeAlias

from servable._server.config.flags import Flags
from servable.errors import BackendError, ConfigError, LoadError, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader
from servable.lifecycle._source import SourceAdapter
from servable.loaders._admitted import AdmittedLoader
from servable.loaders._function import CONCURRENT_RUNS
from servable.loaders._manifest import MANIFEST_FILE, read_manifest
from servable.loaders._python_callable import PythonOptions
from servable.loaders._worker_pool import TrialLoader, WorkerLoader
from servable.platforms._platform import Platform, PlatformContext, Role, names_in
from servable.sources._configured import VersionDirectory

_log = logging.getLogger(__name__)

ENTRY_POINTS = "servable.platforms"
"""The entry-point group in which other distributions register kinds."""

_Make: TypeAlias = Callable[[PlatformContext], Iterable[Platform]]


def find_platforms(context: PlatformContext) -> Mapping[str, Platform]:
    """All platforms, by name.

    A kind of another distribution that cannot be imported is left out, and logged.

    Args:
        context: The parts of the server that they use.

    Raises:
        ConfigError: Two platforms have the same name, or the flags of one cannot be used.
    """
    found: dict[str, Platform] = {}
    origins: dict[str, str] = {}
    for origin, platform in _made(context):
        if platform.name in found:
            text = f"The platform {platform.name} comes from both {origins[platform.name]} and {origin}"
            if context.flags.platform_config_file:
                text += f"; --platform_config_file cannot configure the platform {platform.name}"
            raise ConfigError(text)
        found[platform.name], origins[platform.name] = platform, origin
    return found


def kinds_of(platforms: Mapping[str, Platform], names: Collection[str]) -> Sequence[Platform]:
    """The platforms that recognise a version with these entries, by precedence; one for each kind.

    Several platforms may be of the same kind, with different options. The first of them then stands for all.
    """
    found: dict[type[Platform], Platform] = {}
    for platform in platforms.values():
        if platform.recognises(names):
            found.setdefault(type(platform), platform)
    return sorted(found.values(), key=lambda platform: -platform.precedence)


def kinds_in(platforms: Mapping[str, Platform], version: str) -> Sequence[Platform]:
    """The platforms that recognise a local version; only that of its manifest, if it has one.

    A saved model may have the files of several kinds: the original, and what it was converted to.
    """
    names = names_in(version)
    found = kinds_of(platforms, names)
    if len(found) > 1 and MANIFEST_FILE in names:
        with contextlib.suppress(LoadError):  # which its loader reports
            manifest = read_manifest(version)
            found = [each for each in found if manifest and each.name == manifest.platform] or found
    return found


def recognised(platforms: Mapping[str, Platform], directory: str) -> str | None:
    """The name of the platform of a local version directory; `None` if no platform recognises it."""
    found = kinds_in(platforms, directory)
    return found[0].name if found else None


def option_types(platforms: Mapping[str, Platform]) -> Mapping[str, type[Any]]:
    """The dataclasses of the options of platforms, by name."""
    return {name: platform.options_type for name, platform in platforms.items()}


def require_installed(platforms: Mapping[str, Platform], names: Collection[str]) -> None:
    """Check early whether versions of some platforms can be loaded at all.

    Raises:
        LoadError: A requirement of a platform is not installed; the message names all that are missing.
    """
    missing = []
    for name in sorted(names):
        try:
            platforms[name].require_installed()
        except LoadError as error:
            missing.append(error)
    if missing:
        text = "\n".join(error.message for error in missing)
        raise missing[0] if len(missing) == 1 else LoadError(text, code=missing[0].code)


def code_platforms(platforms: Mapping[str, Platform]) -> Collection[str]:
    """The names of the platforms whose versions contain code."""
    return frozenset(name for name, platform in platforms.items() if platform.runs_code)


class PlatformAdapter(SourceAdapter[VersionDirectory, Loader]):
    """Turns version directories into loaders, each by the platform of its model."""

    def __init__(self, platforms: Mapping[str, Platform]) -> None:
        """Set the platforms, by name."""
        super().__init__()
        self._platforms = platforms

    def adapt(self, servable_id: ServableId, item: VersionDirectory) -> Loader:
        """Make the loader of one version directory.

        Where versions contain code, the loader checks at each load whether it may be run. No kind can therefore omit
        the check, and none needs to know of other processes.
        """
        platform = self._platforms.get(item.model.platform)
        if platform is None:
            raise BackendError("No platform found for model")
        make_loader = partial(_make_loader, platform, servable_id)
        if platform.runs_code:
            return AdmittedLoader(item, platform.context.permissions, make_loader)
        return make_loader(item)


def _make_loader(
    platform: Platform, servable_id: ServableId, directory: VersionDirectory
) -> Loader:
    """The loader of a version, in the process that its model is configured for."""
    loader, model = platform.make_loader(servable_id, directory), directory.model
    if not (model.process or model.trial_load):
        return loader
    flags, workers = platform.context.flags, model.python.workers
    # Other mappings cannot be pickled. The processes of `python.workers` are started here, not by a worker.
    labels, options = dict(model.labels), dict(model.options)
    model = replace(model, labels=labels, options=options, python=PythonOptions())
    role = Role.WORKER if model.process else Role.TRIAL
    make_elsewhere = partial(
        make_loader_elsewhere, flags, role, servable_id, replace(directory, model=model)
    )
    name = f"{servable_id.name}/{servable_id.version}"
    if not model.process:
        return TrialLoader(name, loader, make_elsewhere)
    estimate = platform.make_loader(servable_id, replace(directory, model=model)).estimate_resources
    slots = 1 if workers else max(flags.worker_threads, CONCURRENT_RUNS)
    worker = WorkerLoader(name, make_elsewhere, estimate, processes=max(workers, 1), slots=slots)
    return platform.completed(worker, directory)


def make_loader_elsewhere(
    flags: Flags, role: Role, servable_id: ServableId, directory: VersionDirectory
) -> Loader:
    """Make the loader of a version, in a process that was started for it.

    Args:
        flags: The command line of the server.
        role: What the process is for.
        servable_id: The version.
        directory: Its directory; code in it may be run.

    Raises:
        ServableError: The platform cannot be used, or has gone.
    """
    platforms = find_platforms(PlatformContext(flags=flags, role=role))
    platform = platforms.get(directory.model.platform)
    if platform is None:
        raise BackendError("No platform found for model")
    return platform.make_loader(servable_id, directory)


def _made(context: PlatformContext) -> Iterator[tuple[str, Platform]]:
    package, _, _ = __name__.rpartition(".")
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            name = f"{package}.{module.name}"
            make: _Make = importlib.import_module(name).platforms
            yield from ((name, platform) for platform in make(context))
    for entry_point in sorted(entry_points(group=ENTRY_POINTS), key=lambda found: found.value):
        try:
            made = list(entry_point.load()(context))
        except ServableError:
            raise
        except Exception as error:  # the border to code of others
            _log.warning(
                "The platform %s (%s) is left out: %s: %s",
                *(entry_point.name, entry_point.value, type(error).__name__, error),
            )
        else:
            yield from ((entry_point.value, platform) for platform in made)
